"""How far a lesion stands out of what surrounds it."""

from __future__ import annotations

import torch

from plasticine.metrics.images import check_floating, check_mask
from plasticine.metrics.masks import dilate


def lesion_contrast(
    image: torch.Tensor,
    lesions: torch.Tensor,
    *,
    mask: torch.Tensor | None = None,
    width: int = 3,
) -> float:
    """Contrast of lesions against the ring around them, in standard deviations of the ring.

    (mean inside − mean of the ring) / standard deviation of the ring, over all lesions of the
    batch together. The ring is what lies within ``width`` voxels (city block) of a lesion and in
    none.

    Args:
        image: ``(N, C, *spatial)``, floating point.
        lesions: Boolean, the same shape.
        mask: Boolean, the same shape: where the ring may lie, such as the brain; None for
            everywhere.
        width: Of the ring in voxels, at least 1.

    Returns:
        The contrast: positive where lesions are brighter; NaN without a lesion, or with a ring of
        fewer than two voxels, of one value, or where a voxel that counts is NaN.

    Raises:
        TypeError: The image is not floating point, or a mask is not boolean.
        ValueError: Shapes or devices differ, or the width is less than 1.
    """
    check_floating(image, "image")
    if width < 1:
        raise ValueError(f"width: expected at least 1, got {width}")
    check_mask(lesions, image)
    ring = dilate(lesions, width) & ~lesions
    if mask is not None:
        check_mask(mask, image)
        ring &= mask
    if not lesions.any() or int(ring.sum()) < 2:
        return float("nan")
    inside, around = image[lesions].double(), image[ring].double()
    spread = around.std(correction=0)
    return float((inside.mean() - around.mean()) / spread) if spread > 0 else float("nan")
