"""What ``plasticine jacobian`` writes: the determinant, folds by scheme and region, a page."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from torch import Tensor

from plasticine import __version__
from plasticine.io.nifti_writing import write_image
from plasticine.ops._checks import REGIONS, SCHEMES
from plasticine.ops.folding import folding
from plasticine.ops.jacobian import jacobian_determinant
from plasticine.report.jacobian_page import draw_jacobian
from plasticine.report.record import as_plain, printable, versions
from plasticine.report.terminal import show
from plasticine.transforms import DisplacementField

FORMAT_VERSION = 1


def jacobian_files(*, log: bool) -> dict[str, str]:
    """Every file of the folder, and what it holds."""
    name, what = _image(log)
    return {
        f"{name}.nii.gz": f"{what}, central differences",
        "jacobian.json": "folds by scheme and region, volume turned over, versions",
        "jacobian.png": "the determinant, the deformed grid, how often which value",
    }


def _image(log: bool) -> tuple[str, str]:
    if log:
        return "log_jacobian", "logarithm of det ∇φ, NaN where that is not positive"
    return "jacobian", "det ∇φ, moving volume for one of the fixed; 0 and below is a fold"


def write_jacobian(
    field: DisplacementField,
    folder: Path,
    *,
    name: str,
    format_name: str,
    log: bool = False,
    mask: NDArray[np.bool_] | None = None,
) -> dict[str, Any]:
    """Writes every file of `jacobian_files`.

    Args:
        field: φ on the voxels that it is judged on.
        folder: An existing folder; `plasticine.io.OutputFolder` gives one that is moved into
            place only when all is written.
        name: What the transform is called.
        format_name: And the format of its file.
        log: Write the logarithm of the determinant.
        mask: ``(X, Y, Z)``, a region to measure besides.

    Returns:
        What ``jacobian.json`` holds.

    Raises:
        ValueError: The mask is empty or of another shape.
        OSError: A file cannot be written.
    """
    u = field.displacement[None] if field.ndim == 3 else field.displacement[None, :2, ..., 0]
    determinant = jacobian_determinant(u)[0, 0].reshape(field.grid.shape).numpy()
    voxel = float(np.prod(field.grid.spacing[: field.ndim]))
    record: dict[str, Any] = {
        "format": "plasticine jacobian",
        "format_version": FORMAT_VERSION,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "transform": name,
        "transform_format": format_name,
        "voxels": field.grid.shape,
        "spacing_mm": field.grid.spacing,
        "regions": [
            _measured(u, scheme, region, voxel, field.ndim)
            for scheme in SCHEMES
            for region in REGIONS
        ],
        "mask": None if mask is None else _within(determinant, mask),
        "files": jacobian_files(log=log),
    }
    plain = as_plain(record)
    assert isinstance(plain, dict)
    written, what = _image(log)
    image = _logarithm(determinant) if log else determinant
    note = f"plasticine {__version__}: {what}, of {name}"
    write_image(folder / f"{written}.nii.gz", image, field.grid.affine, description=note)
    text = json.dumps(plain, indent=2, ensure_ascii=False) + "\n"
    (folder / "jacobian.json").write_text(text, encoding="utf-8")
    draw_jacobian(field, determinant, folder / "jacobian.png", name=name, log=log, record=plain)
    return plain


def _logarithm(determinant: NDArray[np.float32]) -> NDArray[np.float32]:
    found = np.full_like(determinant, np.nan)
    np.log(determinant, out=found, where=determinant > 0)
    return found


def _measured(u: Tensor, scheme: str, region: str, voxel: float, ndim: int) -> dict[str, Any]:
    found = folding(u, scheme=scheme, region=region)
    turned = float(found.non_diffeomorphic_volume[0])
    return {
        "scheme": scheme,
        "region": region,
        "folds": int(found.folds[0]),
        "fraction": float(found.fraction[0]),
        "minimum": float(found.minimum[0]),
        "maximum": float(found.maximum[0]),
        "sd_log_jacobian": float(found.sd_log_jacobian[0]),
        "non_diffeomorphic_volume": turned,
        f"non_diffeomorphic_volume_mm{ndim}": turned * voxel,
    }


def _within(determinant: NDArray[np.float32], mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Of central differences, in the mask's voxels."""
    if mask.shape != determinant.shape:
        raise ValueError(
            f"mask: expected the transform's voxels {determinant.shape}, got {mask.shape}"
        )
    inside = torch.from_numpy(determinant[mask]).double()
    if not inside.numel():
        raise ValueError("mask: it is empty, nothing of it is more than 0")
    folds = ~(inside > 0)
    return {
        "scheme": "central",
        "voxels": inside.numel(),
        "folds": int(folds.sum()),
        "fraction": float(folds.double().mean()),
        "minimum": float(inside.min()),
        "mean": float(inside.mean()),
        "maximum": float(inside.max()),
        "sd_log_jacobian": float(inside.clamp(min=1e-9).log().std(correction=0)),
    }


def print_jacobian(record: dict[str, Any], folder: Path) -> None:
    """Prints folds by scheme and region, and where the pages are.

    Args:
        record: What `write_jacobian` gives.
        folder: Where it was written.
    """
    shape = " x ".join(map(str, record["voxels"]))
    table = Table(
        title=f"Jacobian determinant of {printable(record['transform'])}, {shape} voxels",
        title_justify="left",
    )
    for column in ("scheme", "region", "folds (J<=0)", "J", "SD log J", "turned over"):
        table.add_column(column, overflow="fold")
    rows = list(record["regions"])
    if record["mask"] is not None:
        rows.append(record["mask"] | {"region": "mask"})
    for row in rows:
        turned = row.get("non_diffeomorphic_volume")
        table.add_row(
            row["scheme"],
            row["region"],
            f"{row['folds']} ({float(row['fraction']):.2%})",
            f"{float(row['minimum']):.2f} to {float(row['maximum']):.2f}",
            f"{float(row['sd_log_jacobian']):.3f}",
            "" if turned is None else f"{float(turned):.4g} voxels",
        )
    show(table, folder / "jacobian.png")
