"""Damaged files: whatever a reader throws becomes the file's name and a reason."""

from __future__ import annotations

import contextlib
import gzip
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from image_files import write_itk
from PIL import Image
from refusal import refuses

from plasticine.io import (
    read_displacement,
    read_stored,
    read_volume,
    translate_volume,
    write_displacement,
    write_image,
)
from plasticine.io.checks import check_claim, named_errors
from plasticine.report import RESULT_FILES, read_results, write_results
from plasticine.translation import Translator

DIM, DATATYPE, VOX_OFFSET = 40, 70, 108  # where a NIfTI header has them


def _nifti(path: Path, shape: tuple[int, ...] = (4, 5, 6), kind: Any = nibabel.Nifti1Image) -> Path:
    nibabel.save(kind(np.ones(shape, np.float32), np.eye(4)), path)
    return path


def _patched(path: Path, offset: int, kind: str, *values: float, shape: Any = (4, 5, 6)) -> Path:
    """A NIfTI file whose header says something else; compressed where its name says so."""
    plain = path.with_name("plain.nii")
    data = bytearray(_nifti(plain, shape).read_bytes())
    struct.pack_into(f"<{len(values)}{kind}", data, offset, *values)
    path.write_bytes(gzip.compress(bytes(data)) if path.suffix == ".gz" else bytes(data))
    return path


class TestClaims:
    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
    @pytest.mark.parametrize(
        "dim", [(3, 1000, 1000, 1000), (7, *[32767] * 7), (5, 30000, 30000, 30000, 1, 3)]
    )
    def test_nifti(self, tmp_path: Path, name: str, dim: tuple[int, ...]) -> None:
        path = _patched(tmp_path / name, DIM, "h", *dim)
        reads = [read_displacement] if len(dim) == 6 else [read_volume]
        for read in reads:
            with pytest.raises(ValueError, match=rf"{name}: "):
                read(path, **({"vectors": "lps"} if len(dim) == 6 else {}))  # type: ignore[operator]

    def test_nothing_is_allocated(self, tmp_path: Path) -> None:
        # 28 kB that claim 1000³ float32: 4 GB.
        path = _patched(tmp_path / "a.nii", DIM, "h", 3, 1000, 1000, 1000, shape=(19, 19, 19))
        assert 27_000 < path.stat().st_size < 29_000
        tracemalloc.start()
        try:
            refuses(ValueError, r"claims 4000000352 bytes, it holds 27788", read_volume, path)
            assert tracemalloc.get_traced_memory()[1] < 1_000_000
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize("offset", [np.inf, -np.inf, np.nan, 1e30, -400.0, 0.0, 100.0])
    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
    def test_an_impossible_offset(self, tmp_path: Path, name: str, offset: float) -> None:
        path = _patched(tmp_path / name, VOX_OFFSET, "f", offset)
        refuses(ValueError, rf"{name}: ", read_volume, path)

    def test_what_a_gzip_can_hold_is_read(self, tmp_path: Path) -> None:
        # All zeros: as much as deflate can pack.
        image = nibabel.Nifti1Image(np.zeros((200, 200, 100), np.float32), np.eye(4))
        nibabel.save(image, tmp_path / "a.nii.gz")
        packed = gzip.compress(gzip.decompress((tmp_path / "a.nii.gz").read_bytes()), 9)
        assert 16_000_000 / len(packed) > 900
        (tmp_path / "a.nii.gz").write_bytes(packed)
        assert read_volume(tmp_path / "a.nii.gz").data.shape == (200, 200, 100)

    @pytest.mark.parametrize("claimed", [-1, 1001, 10**40])
    def test_bounds(self, claimed: int) -> None:
        with pytest.raises(ValueError, match="x: the file is cut short or damaged"):
            check_claim(Path("x"), claimed, 1000, compressed=False)
        check_claim(Path("x"), 1000, 1000, compressed=False)
        check_claim(Path("x"), 1_032_000, 1000, compressed=True)
        refuses(ValueError, "at most", check_claim, Path("x"), 1_040_000, 1000, compressed=True)

    @pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.AnalyzeImage])
    def test_a_pair(self, tmp_path: Path, kind: Any) -> None:
        _nifti(tmp_path / "a.img", kind=kind)
        (tmp_path / "a.img").write_bytes((tmp_path / "a.img").read_bytes()[:-1])
        for name in ("a.img", "a.hdr"):
            with pytest.raises(ValueError, match=rf"{name}: .*claims 480 bytes, it holds 479"):
                read_volume(tmp_path / name)

    @pytest.mark.parametrize("name", ["a.mgh", "a.mgz"])
    def test_freesurfer(self, tmp_path: Path, name: str) -> None:
        _nifti(tmp_path / "a.mgh", kind=nibabel.MGHImage)
        data = bytearray((tmp_path / "a.mgh").read_bytes())
        struct.pack_into(">3i", data, 4, 5000, 5000, 5000)
        (tmp_path / name).write_bytes(gzip.compress(bytes(data)) if name == "a.mgz" else data)
        refuses(ValueError, rf"{name}: .*claims", read_volume, tmp_path / name)

    @pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd", "a.nhdr"])
    def test_the_checksum_of_what_itk_inflates(self, tmp_path: Path, name: str, capfd: Any) -> None:
        values = np.random.default_rng(0).integers(0, 50, (20, 21, 22), np.int16)
        write_itk(tmp_path / name, values, compressed=True)
        np.testing.assert_array_equal(read_volume(tmp_path / name).data, values.T)
        path = next((p for p in tmp_path.iterdir() if p.name != name), tmp_path / name)
        whole = path.read_bytes()
        places = [*range(len(whole) // 2, len(whole) - 12, 97), len(whole) - 10, len(whole) - 6]
        damages = [whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :] for at in places]
        for damaged in (*damages, whole[:-1], whole[:-9], whole[: len(whole) * 2 // 3]):
            path.write_bytes(damaged)
            refuses(ValueError, rf"{name}: .*cut short or damaged", read_volume, tmp_path / name)
        path.write_bytes(whole)
        header = (tmp_path / name).read_bytes()
        for claim in (b"22 21 19", b"22 21 21"):
            assert header.count(b"22 21 20") == 1
            (tmp_path / name).write_bytes(header.replace(b"22 21 20", claim))
            with pytest.raises(ValueError, match=rf"{name}: .*cut short or damaged.*claims"):
                read_volume(tmp_path / name)
        assert capfd.readouterr().err == ""

    @pytest.mark.parametrize("name", ["a.nii.gz", "a.mgz"])
    @pytest.mark.parametrize("behind", [b"", bytes(3_000_000)])
    def test_the_checksum_of_a_gzip(self, tmp_path: Path, name: str, behind: bytes) -> None:
        kind = nibabel.MGHImage if name == "a.mgz" else nibabel.Nifti1Image
        plain = _nifti(tmp_path / name.replace("mgz", "mgh").replace(".gz", ""), kind=kind)
        whole = gzip.compress(plain.read_bytes() + behind, mtime=0)
        (tmp_path / name).write_bytes(whole)
        assert (read_volume(tmp_path / name).data == 1).all()
        for damaged in (whole[:-8], whole[:-1], whole[:-8] + b"\1" * 4 + whole[-4:]):
            (tmp_path / name).write_bytes(damaged)
            with pytest.raises(ValueError, match=rf"{name}: the file is cut short or damaged"):
                read_volume(tmp_path / name)
        write_displacement(tmp_path / "d.nii.gz", np.ones((3, 4, 5, 6), np.float32), np.eye(4))
        (tmp_path / "d.nii.gz").write_bytes((tmp_path / "d.nii.gz").read_bytes()[:-1])
        with pytest.raises(ValueError, match=r"d\.nii\.gz: the file is cut short or damaged"):
            read_displacement(tmp_path / "d.nii.gz")

    @pytest.mark.parametrize("shape", [(50000, 50000), (2**40, 2**40), (3, 2**62, 9)])
    def test_arrays(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        path = tmp_path / "a.npy"
        with path.open("wb") as file:
            header = {"descr": "<f8", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            file.write(bytes(1000))
        refuses(ValueError, r"a\.npy: ", read_volume, path)

    @pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd", "a.nhdr"])
    @pytest.mark.parametrize("compressed", [True, False])
    def test_itk(self, tmp_path: Path, name: str, compressed: bool, capfd: Any) -> None:
        write_itk(tmp_path / name, np.ones((4, 5, 6), np.int16), compressed=compressed)
        data = (tmp_path / name).read_bytes()
        assert b"6 5 4" in data
        (tmp_path / name).write_bytes(data.replace(b"6 5 4", b"6000 5000 4000", 1))
        refuses(ValueError, rf"{name}: .*claims 2400000\d+ bytes", read_volume, tmp_path / name)
        assert capfd.readouterr().err == ""


class TestNames:
    @pytest.mark.parametrize(
        "error",
        [
            KeyError(3),
            OverflowError("too large"),
            RecursionError("too deep"),
            AttributeError("no"),
            MemoryError(),
            IndexError(),
            RuntimeError("sitk::ERROR:\n  many\n  lines"),
            OSError("no errno"),
            UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
            TypeError("not ours"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_any_exception(self, error: Exception) -> None:
        with pytest.raises(ValueError, match=r"^a/b: ") as caught, named_errors(Path("a/b")):
            raise error
        assert caught.value.__cause__ is error
        assert "\n" not in str(caught.value)

    def test_where_in_itk_is_left_out(self) -> None:
        error = RuntimeError(
            "Exception thrown in SimpleITK ImageFileReader_Execute: /tmp/build/itkIO.cxx:490:\n"
            "ITK ERROR: MetaImageIO(0x556d7e0dea70): File cannot be read: a/b for reading."
        )
        with pytest.raises(ValueError, match="a/b") as caught, named_errors(Path("a/b")):
            raise error
        reason = "damaged, or not what its name says (SimpleITK: File cannot be read: a/b for rea"
        assert str(caught.value) == f"a/b: {reason}ding.)"

    def test_what_nibabel_repairs_is_not_logged(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for offset, kind, value in ((72, "h", 7), (76, "f", 3.0), (80, "f", -2.0)):
            path = _patched(tmp_path / "a.nii", offset, kind, value)
            with contextlib.suppress(ValueError):
                read_volume(path)
        assert caplog.records == []

    @pytest.mark.parametrize(
        "error",
        [
            FileNotFoundError("x"),
            PermissionError("x"),
            TypeError("a/b: ours"),
            ValueError("a/b: ours"),
            RuntimeError("a/b: ours"),
            KeyboardInterrupt(),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_what_passes(self, error: BaseException) -> None:
        with pytest.raises(type(error)) as caught, named_errors(Path("a/b")):
            raise error
        assert caught.value is error

    def test_a_numpy_header_that_is_no_python(self, tmp_path: Path) -> None:
        path = tmp_path / "a.npy"
        np.save(path, np.ones((4, 5)))
        for text in (b"{'descr': (((((", b"'''", b"{'descr': '<z9'", b"\xff\xfe"):
            data = bytearray(path.read_bytes())
            data[10 : 10 + len(text)] = text
            (tmp_path / "b.npy").write_bytes(data)
            refuses(ValueError, r"b\.npy: ", read_volume, tmp_path / "b.npy")

    @pytest.mark.parametrize(
        "text", ["[]", "{}", '{"model": []}', "[" * 100_000, "\x00", '{"model": {"card": 3}}']
    )
    def test_a_record_of_another_kind(self, tmp_path: Path, text: str) -> None:
        for name in RESULT_FILES:
            (tmp_path / name).write_text("")
        write_displacement(
            tmp_path / "displacement.nii.gz", np.ones((3, 4, 5, 6), np.float32), np.eye(4)
        )
        (tmp_path / "trace.json").write_text(text)
        refuses(ValueError, f"{tmp_path}: not the folder of a translation", read_results, tmp_path)

    def test_a_result_moved_elsewhere(self, tmp_path: Path, model_file: Path) -> None:
        np.save(tmp_path / "a.npy", np.indices((2, 20, 22)).sum(0).astype(np.uint8))
        result = translate_volume(Translator.load(model_file), read_volume(tmp_path / "a.npy"))
        write_results(result, tmp_path, model_file=model_file)
        volume = read_volume(tmp_path / "warped.nii.gz")
        assert volume.affine is not None
        moved = volume.affine.copy()
        moved[0, 3] += 3
        write_image(tmp_path / "warped.nii.gz", volume.data, moved)
        with pytest.raises(ValueError, match=r"warped\.nii\.gz lies up to 3 voxels \(3 mm\) off"):
            read_results(tmp_path)


def _reads_or_says(path: Path) -> bool:
    """Whether a file is read; if not, that its name is told."""
    try:
        read_stored(path)
    except (ValueError, TypeError, FileNotFoundError) as error:
        message = str(error)
    else:
        return True
    assert message.startswith(f"{path}: ")
    return False


def _mutated(write: Callable[[Path], Any], path: Path, seed: int, header: int) -> int:
    """How many of a file's mutations are refused: bytes changed, most in its header; or cut."""
    write(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(seed)
    refused = 0
    for turn in range(100):
        data = bytearray(whole)
        if turn % 5 == 0:
            del data[rng.integers(len(data)) :]
        for place in rng.integers(0, min(header, len(data)) + 1, 4):
            if place < len(data):
                data[place] = rng.choice([0, 255, 127, 128, rng.integers(256)])
        path.write_bytes(data)
        refused += not _reads_or_says(path)
    return refused


MUTATED: dict[str, tuple[Callable[[Path], Any], int]] = {
    "a.nii": (_nifti, 352),
    "a.nii.gz": (_nifti, 200),
    "a.img": (lambda path: _nifti(path, kind=nibabel.Nifti1Pair), 480),
    "a.hdr": (lambda path: _nifti(path.with_suffix(".img"), kind=nibabel.Nifti1Pair), 348),
    "a.mgh": (lambda path: _nifti(path, kind=nibabel.MGHImage), 90),
    "a.mgz": (lambda path: _nifti(path, kind=nibabel.MGHImage), 100),
    "a.npy": (lambda path: np.save(path, np.ones((3, 4, 5))), 128),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MUTATED)
def test_mutations_are_read_or_told(tmp_path: Path, name: str) -> None:
    write, header = MUTATED[name]
    # The elements of an image file of a pair are any bytes: only those cut short are refused.
    assert _mutated(write, tmp_path / name, 0, header) >= (15 if name == "a.img" else 25)


@pytest.mark.filterwarnings("ignore")
def test_a_tiff_with_unknown_tags(tmp_path: Path) -> None:
    Image.fromarray(np.ones((5, 7), np.uint8)).save(tmp_path / "a.tif")
    whole = (tmp_path / "a.tif").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(100):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), 3):
            data[place] = rng.integers(256)
        (tmp_path / "b.tif").write_bytes(data)
        _reads_or_says(tmp_path / "b.tif")
