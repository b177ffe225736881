"""What nibabel reads: NIfTI, Analyze and FreeSurfer images."""

from __future__ import annotations

import contextlib
import gzip
import logging
import math
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import nibabel
import numpy as np
from nibabel.freesurfer.mghformat import MGHHeader
from nibabel.spm2analyze import Spm2AnalyzeHeader
from numpy.typing import NDArray

from plasticine.io.checks import (
    SAME_PLACE,
    check_affine,
    check_claim,
    check_exists,
    corner_distance,
)
from plasticine.io.volume import Kind, Volume

_PAIR = (".hdr", ".img")
# NIfTI's codes of a unit of length, and how many millimetres it is.
_UNITS = {1: ("metres", 1e3), 2: ("millimetres", 1.0), 3: ("micrometres", 1e-3)}
# Analyze names its unit in up to three letters.
_ANALYZE_UNITS = {"m": 1, "mm": 2, "um": 3}
# ITK normalises a quaternion longer than 1; beyond this it is damage, not rounding.
_LONGEST_QUATERNION = 1.001
_CHUNK = 1 << 20


def read_nifti(path: Path) -> Volume:
    """Reads a NIfTI, Analyze or FreeSurfer image of two or three axes, in its own element type.

    Raises:
        FileNotFoundError: There is no such file, or not the other of a pair .hdr and .img.
        ValueError: It is not what its name says, is damaged, or has another number of axes.
        TypeError: Its elements are colours.
    """
    header, data_path = read_header(path)
    stored_shape = tuple(int(n) for n in header.get_data_shape())
    shape = stored_shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (2, 3):
        raise ValueError(f"{path}: expected a 2D or 3D image, got shape {stored_shape}")
    affine, notes = placement(path, header)
    data = read_data(path, header, data_path)
    return Volume(
        data=data.reshape(shape + (1,) * (3 - len(shape))),
        affine=affine,
        path=path,
        kind=_kind(header),
        stored_dtype=header.get_data_dtype().name,
        stored_shape=stored_shape,
        notes=tuple(notes),
    )


def read_header(path: Path) -> tuple[Any, Path]:
    """Reads the header of a file, before any of its data.

    Args:
        path: ``.nii``, ``.nii.gz``, ``.mgh``, ``.mgz``, or either of a pair ``.hdr`` and ``.img``.

    Returns:
        nibabel's header, and the file that holds the data.

    Raises:
        FileNotFoundError: There is no such file, or not the other of a pair.
        ValueError: It is not what its name says.
    """
    check_exists(path)
    name = path.name.lower()
    header_path, data_path = _pair(path) if name.endswith(_PAIR) else (path, path)
    format_name = "FreeSurfer" if name.endswith((".mgh", ".mgz")) else "NIfTI"
    try:
        with _open(header_path) as file:
            start = file.read(348)
            kind = _header_class(start, name)
            if kind is None:
                raise ValueError(f"{path}: not a {format_name} file")
            file.seek(0)
            with _silent():
                header = kind.from_fileobj(file)
    except nibabel.spatialimages.HeaderDataError as error:
        raise ValueError(f"{path}: not a {format_name} file ({error})") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: not a {format_name} file, its compression is damaged") from error
    if isinstance(header, nibabel.Nifti1Header):
        _normalise_quaternion(header)
    if isinstance(header, MGHHeader):
        # nibabel sets it where it is not set, and assumes another orientation than FreeSurfer.
        header["goodRASFlag"] = int.from_bytes(start[28:30], "big", signed=True)
    return header, data_path


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keeps nibabel from writing to stderr what it repaired of a header: errors are raised."""

    def drop(record: logging.LogRecord) -> bool:
        return False

    logger = nibabel.imageglobals.logger
    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)


def _open(path: Path) -> IO[bytes]:
    """The file, or what is compressed in it."""
    if path.name.lower().endswith((".gz", ".mgz")):
        return cast(IO[bytes], gzip.open(path, "rb"))
    return path.open("rb")


def _header_class(start: bytes, name: str) -> Any:
    """nibabel's class for the header that begins so; None where it is none of those."""
    if name.endswith((".mgh", ".mgz")):
        return MGHHeader if start[:4] == b"\0\0\0\x01" else None
    sizes = {int.from_bytes(start[:4], order) for order in ("little", "big")}
    pair = name.endswith(_PAIR)
    if 540 in sizes and start[4:7] == (b"ni2" if pair else b"n+2"):
        return nibabel.nifti2.Nifti2PairHeader if pair else nibabel.Nifti2Header
    if len(start) < 348:
        return None
    if start[344:347] == (b"ni1" if pair else b"n+1"):
        return nibabel.nifti1.Nifti1PairHeader if pair else nibabel.Nifti1Header
    return Spm2AnalyzeHeader if pair and 348 in sizes else None


def _pair(path: Path) -> tuple[Path, Path]:
    """The .hdr and the .img of a pair, of which one is given."""
    partner = partner_of(path)
    if partner is None:
        raise FileNotFoundError(f"{path}: its header or data is missing, a .hdr and a .img pair")
    return (path, partner) if path.suffix.lower() == ".hdr" else (partner, path)


def partner_of(path: Path) -> Path | None:
    """The other file of a pair of header (.hdr) and data (.img); None where there is none."""
    if path.suffix.lower() not in _PAIR:
        return None
    other = _PAIR[1 - _PAIR.index(path.suffix.lower())]
    cases = (other, other.upper()) if path.suffix.islower() else (other.upper(), other)
    same = [path.with_suffix(suffix) for suffix in cases]
    same += sorted(p for p in path.parent.glob(f"{path.stem}.*") if p.suffix.lower() == other)
    return next((candidate for candidate in same if candidate.is_file()), None)


def read_data(path: Path, header: Any, data_path: Path) -> NDArray[Any]:
    """Reads the elements of a file, slope and intercept applied.

    Args:
        path: The file that is read.
        header: What `read_header` gave.
        data_path: Likewise.

    Returns:
        The elements, in the file's type where they are not scaled, in this machine's byte order.

    Raises:
        ValueError: The file is cut short or damaged.
        TypeError: Its elements are colours.
    """
    dtype = header.get_data_dtype()
    if dtype.fields is not None:
        raise TypeError(f"{path}: expected one number per voxel, got colours (RGB)")
    shape, offset = [int(n) for n in header.get_data_shape()], int(header.get_data_offset())
    if min(shape, default=0) < 0 or offset < 0:
        raise ValueError(f"{path}: cut short or damaged, shape {shape} from byte {offset}")
    if getattr(header, "is_single", False) and offset < header.single_vox_offset:
        # nibabel would take the header for voxels.
        raise ValueError(f"{path}: damaged, its data would begin in its header, at byte {offset}")
    claimed = offset + math.prod(shape) * dtype.itemsize
    compressed = data_path.name.lower().endswith((".gz", ".mgz"))
    check_claim(path, claimed, data_path.stat().st_size, compressed=compressed)
    try:
        with _open(data_path) as file, np.errstate(invalid="ignore", over="ignore", under="ignore"):
            data = np.asanyarray(nibabel.arrayproxy.ArrayProxy(file, header))
            while compressed and file.read(_CHUNK):
                pass  # gzip compares its checksum where its content ends
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise ValueError(f"{path}: the file is cut short or damaged ({error})") from error
    return data.astype(data.dtype.newbyteorder("="), copy=False)


def _kind(header: Any) -> Kind:
    if isinstance(header, MGHHeader):
        return "mgh"
    return "nifti" if isinstance(header, nibabel.Nifti1Header) else "analyze"


def placement(path: Path, header: Any) -> tuple[NDArray[np.float64], list[str]]:
    """Where a header puts its voxels.

    The affine is the one that nibabel takes, sform before qform, in the header's unit of length.

    Args:
        path: The file.
        header: What `read_header` gave.

    Returns:
        The affine, ``(4, 4)``, voxel index to millimetres (RAS+), and notes on what was assumed
        and on where other software may place the file elsewhere.

    Raises:
        ValueError: The affine is not finite or cannot be inverted, or SPM's .mat beside an
            Analyze pair, which holds it, cannot be read.
    """
    notes: list[str] = []
    placed_by_matrix = False
    if isinstance(header, MGHHeader):
        if int(header["goodRASFlag"]) <= 0:
            # As FreeSurfer does: voxels of 1 mm, a coronal volume about the origin.
            header["delta"], header["Pxyz_c"] = 1, 0
            header["Mdc"] = [[-1, 0, 0], [0, 0, -1], [0, 1, 0]]
            notes.append("the FreeSurfer header gives no orientation: 1 mm, coronal assumed")
        affine = header.get_affine()
    elif not isinstance(header, nibabel.Nifti1Header):
        matrix = path.with_suffix(".mat")
        if matrix.is_file() and matrix.stat().st_size:
            affine, placed_by_matrix = _spm_affine(path, matrix), True
            notes.append(f"placed where SPM's {matrix.name} says")
        else:
            affine = header.get_best_affine()
            axes = "".join(nibabel.aff2axcodes(affine))
            notes.append(f"Analyze headers give no orientation: axes assumed to run {axes}")
    else:
        affine = _best_affine(path, header)
    # SPM's matrices are of millimetres.
    factor, unit_notes = (1.0, []) if placed_by_matrix else _unit(header)
    affine = np.asarray(affine, dtype=np.float64).copy()
    affine[:3] *= factor
    affine = check_affine(path, affine)
    if isinstance(header, nibabel.Nifti1Header):
        notes += _form_notes(header, affine / [[factor], [factor], [factor], [1.0]])
    return affine, notes + unit_notes + shear_notes(affine)


def _spm_affine(path: Path, matrix: Path) -> NDArray[np.float64]:
    """Where SPM's MATLAB file beside an Analyze pair puts its voxels, as nibabel reads it."""
    files = dict(zip(("header", "image"), _pair(path), strict=True), mat=matrix)
    holders = {
        kind: nibabel.fileholders.FileHolder(os.fspath(file)) for kind, file in files.items()
    }
    try:
        with _silent():
            affine = nibabel.Spm2AnalyzeImage.from_file_map(holders).affine
    except Exception as error:  # of scipy, which nibabel reads it with and which may be missing
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"{path}: {matrix.name} beside it may say where it lies, but cannot be read "
            f"({reason}): install scipy if that is missing, save the image as NIfTI, or remove it"
        ) from error
    if affine is None or np.shape(affine) != (4, 4):
        raise ValueError(f"{path}: {matrix.name} beside it holds no 4 × 4 matrix")
    return np.asarray(affine, dtype=np.float64)


def _unit(header: Any) -> tuple[float, list[str]]:
    """How many millimetres the header's unit of length is, and what to note of it."""
    if isinstance(header, MGHHeader):
        return 1.0, []
    if isinstance(header, nibabel.Nifti1Header):
        code, named = int(header["xyzt_units"]) & 7, "NIfTI"
    else:
        letters = bytes(header["vox_units"].item()).split(b"\0")[0].decode("latin-1")
        code, named = _ANALYZE_UNITS.get(letters.strip().lower(), 0), "Analyze"
    if code not in _UNITS:
        return 1.0, [f"the {named} header names no known unit of length: millimetres assumed"]
    unit, factor = _UNITS[code]
    return factor, [] if factor == 1 else [f"lengths were converted from {unit} to millimetres"]


def _normalise_quaternion(header: Any) -> None:
    """Shortens a quaternion that rounding has made longer than 1, as ITK does."""
    names = ("quatern_b", "quatern_c", "quatern_d")
    length = math.sqrt(sum(float(header[name]) ** 2 for name in names))
    if 1 < length <= _LONGEST_QUATERNION:
        for name in names:
            header[name] = float(header[name]) / length


def _qform(header: Any) -> NDArray[np.float64] | None:
    """The header's qform; None where it cannot be made of its numbers."""
    try:
        qform = header.get_qform()
    except (ValueError, nibabel.spatialimages.HeaderDataError):
        return None
    return qform if np.isfinite(qform).all() else None


def _best_affine(path: Path, header: Any) -> NDArray[np.float64]:
    qform_alone = int(header["sform_code"]) == 0 and int(header["qform_code"]) != 0
    if qform_alone and _qform(header) is None:
        raise ValueError(
            f"{path}: its affine, a qform alone, holds no valid quaternion and voxel sizes"
        )
    return header.get_best_affine()


def _form_notes(header: Any, affine: NDArray[np.float64]) -> list[str]:
    """Notes on a NIfTI header's two forms; ``affine`` in the header's own unit."""
    coded = (int(header["qform_code"]) != 0, int(header["sform_code"]) != 0)
    if coded == (False, False):
        axes = "".join(nibabel.aff2axcodes(affine))
        return [f"the NIfTI header gives no orientation: axes assumed to run {axes}"]
    if coded == (True, True):
        qform = _qform(header)
        if qform is None:
            return ["the NIfTI header's qform is not valid: the sform was followed"]
        if corner_distance(affine, qform, header.get_data_shape())[0] > SAME_PLACE:
            return ["the NIfTI header's qform and sform differ: the sform was followed"]
    return []


def shear_notes(affine: NDArray[np.float64]) -> list[str]:
    """A note where an affine is one that ITK cannot represent."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if np.abs(directions.T @ directions - np.eye(3)).max() > 1e-3:
        return ["the affine is sheared, which ITK cannot represent"]
    return []
