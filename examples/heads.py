"""Two heads to register: real ones where PLASTICINE_DATA has them, else drawn ones."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F


def two_heads(size: int) -> tuple[Tensor, Tensor]:
    """A moving and a fixed image, each ``(1, 1, size, size, size)`` in [0, 1]."""
    folder = Path(os.environ.get("PLASTICINE_DATA", "")) / "brain_t1_labels"
    files = [folder / f"IXI{number}_t1.nii.gz" for number in ("012", "013")]
    if "PLASTICINE_DATA" in os.environ and all(file.is_file() for file in files):
        import nibabel

        volumes = [torch.from_numpy(nibabel.load(file).get_fdata()).float() for file in files]
    else:
        volumes = [_drawn(shift) for shift in (0.0, 0.15)]
    resized = [
        F.interpolate(volume[None, None], size=(size,) * 3, mode="trilinear", align_corners=True)
        for volume in volumes
    ]
    moving, fixed = (image / image.max() for image in resized)
    return moving, fixed


def _drawn(shift: float) -> Tensor:
    """An ellipsoid with folds in it."""
    axes = torch.meshgrid(*[torch.linspace(-1, 1, 64)] * 3, indexing="ij")
    z, y, x = (axis + shift * wave for axis, wave in zip(axes, (0.5, 0.2, -0.3), strict=True))
    folds = 0.5 + 0.2 * (torch.sin(12 * x) + torch.sin(10 * y + 3 * z))
    return folds * torch.sigmoid(20 * (0.8 - (x**2 + 1.3 * y**2 + z**2).sqrt()))
