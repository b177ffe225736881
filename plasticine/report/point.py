"""One point of a result: where it came from, where it went, and what is there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from plasticine.io.checks import named_errors
from plasticine.io.displacement import read_displacement
from plasticine.io.reading import read_volume
from plasticine.nn.points import move_points
from plasticine.ops.invert import invert
from plasticine.ops.warp import warp
from plasticine.report.record import as_plain

_KINDS = {
    "trace.json": ("translation", "input", "translated.nii.gz"),
    "registration.json": ("registration", "moving", None),
}


def locate(folder: Path, point: Sequence[float], *, millimetres: bool = False) -> dict[str, Any]:
    """Follows a point through the deformation of a result, both ways.

    Args:
        folder: What ``plasticine translate`` or ``plasticine register`` wrote.
        point: Three voxel indices along the files' axes, from 0, or millimetres; they need not
            be whole.
        millimetres: Whether they are millimetres, RAS+ (right, anterior, superior), as NIfTI and
            3D Slicer have them.

    Returns:
        A dictionary that is valid JSON. ``result_to_source``: the point taken as one of the
        result, and where it came from, φ(p); ``source_to_result``: taken as one of the source,
        and where it went, φ⁻¹(p). Each has ``from`` and ``to`` with ``voxel`` and ``mm``, and
        whether ``to`` lies ``inside`` the image. With them the source's intensity there, the
        result's (of a translation), and the Jacobian determinant of φ.

    Raises:
        FileNotFoundError: The folder is not that of a result.
        ValueError: The point lies outside of the image it is taken of, or a file is damaged.
    """
    name = next((name for name in _KINDS if (folder / name).is_file()), None)
    if name is None:
        raise FileNotFoundError(
            f"{folder}: expected the folder of a translation or a registration, with "
            f"{' or '.join(_KINDS)}"
        )
    kind, source, translated = _KINDS[name]
    with named_errors(folder / name):
        record = json.loads((folder / name).read_text(encoding="utf-8"))
        source_file = record[source]["file"]
    field, affine = read_displacement(folder / "displacement.nii.gz")
    inverse_file = folder / "inverse_displacement.nii.gz"
    # The displacements are in voxels of the grid on which they lie.
    if inverse_file.is_file():
        inverse, source_affine = read_displacement(inverse_file)
        back = _tensor(inverse)
        residual = None
    else:
        found = invert(_tensor(field))
        back, source_affine = found.displacement, affine
        residual = float(found.residual.max())
    values = {"source_intensity": _image(folder / "warped.nii.gz")}
    if translated is not None:
        values["result_intensity"] = _image(folder / translated)
    values["jacobian"] = _image(folder / "jacobian.nii.gz")
    given = np.asarray(point, dtype=np.float64)
    facts: dict[str, Any] = {"result": folder, "kind": kind, "source": source_file}
    shapes = tuple(field.shape[1:]), tuple(back.shape[2:])
    ways = {
        "result_to_source": (_tensor(field), affine, source_affine, shapes[1]),
        "source_to_result": (back, source_affine, affine, shapes[0]),
    }
    for way, (displacement, start, end, shape) in ways.items():
        voxel = _apply(np.linalg.inv(start), given) if millimetres else given
        size = tuple(displacement.shape[2:])
        if not _inside(voxel, size):
            if way == "result_to_source":
                raise ValueError(
                    f"expected a point within 0 … {', '.join(str(n - 1) for n in size)} voxels; "
                    f"got {', '.join(f'{v:g}' for v in voxel)}"
                )
            facts[way] = None  # the two images are of different sizes
            continue
        moved = _apply(start, move_points(_points(voxel), displacement)[0, 0].numpy())
        there = _apply(np.linalg.inv(end), moved)
        at = voxel if way == "result_to_source" else there
        facts[way] = {
            "from": {"voxel": voxel, "mm": _apply(start, voxel)},
            "to": {"voxel": there, "mm": moved, "inside": _inside(there, shape)},
            "moved_mm": float(np.linalg.norm(moved - _apply(start, voxel))),
        } | {name: _at(image, at) for name, image in values.items()}
    facts["inverse_residual_voxels"] = residual
    plain = as_plain(facts)
    assert isinstance(plain, dict)
    return plain


def _tensor(field: NDArray[np.float32]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(field))[None]


def _image(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(read_volume(path).data))[None, None]


def _points(voxel: NDArray[np.float64]) -> torch.Tensor:
    return torch.from_numpy(voxel)[None, None]


def _at(image: torch.Tensor, voxel: NDArray[np.float64]) -> float | None:
    """The interpolated value; None outside."""
    if not _inside(voxel, tuple(image.shape[2:])):
        return None
    place = torch.from_numpy(voxel).reshape(1, 3, 1, 1, 1)
    origin = torch.zeros(1, 3, 4, dtype=place.dtype)
    return float(warp(image.double(), place, affine=origin))


def _inside(voxel: NDArray[np.float64], shape: tuple[int, ...]) -> bool:
    return all(-0.5 <= v <= n - 0.5 for v, n in zip(voxel, shape, strict=True))


def _apply(affine: NDArray[np.float64], point: NDArray[np.float64]) -> NDArray[np.float64]:
    return affine[:3, :3] @ point + affine[:3, 3]
