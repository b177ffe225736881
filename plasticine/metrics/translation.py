"""One score for a translation whose truth is known."""

from __future__ import annotations

import dataclasses

import torch

from plasticine.metrics.images import (
    SSIM_WINDOW,
    check_mask,
    check_pair,
    correlation,
    psnr,
    ssim,
)
from plasticine.metrics.masks import erode


@dataclasses.dataclass(frozen=True)
class TranslationScore:
    """What `evaluate_translation` measured.

    Attributes:
        psnr: dB, over every voxel of every slice.
        ssim: Mean over every slice; None where an axis is shorter than SSIM's window, 11.
        psnr_inside: dB, over the eroded mask; None without a mask.
        ssim_inside: Mean over the eroded mask; None without a mask, or where an axis is shorter
            than half of the window, 5.
        correlation_inside: Pearson, over the eroded mask; None without a mask.
        erosion: By how many voxels the mask was eroded.
        voxels_inside: How many voxels that left; None without a mask.
    """

    psnr: float
    ssim: float | None
    psnr_inside: float | None
    ssim_inside: float | None
    correlation_inside: float | None
    erosion: int
    voxels_inside: int | None

    def __str__(self) -> str:
        text = f"PSNR {self.psnr:.2f} dB, SSIM {_shown(self.ssim)}"
        if self.voxels_inside is None:
            return text
        return (
            f"{text}; inside the mask eroded by {self.erosion} voxels: "
            f"PSNR {self.psnr_inside:.2f} dB, SSIM {_shown(self.ssim_inside)}, "
            f"correlation {self.correlation_inside:.3f}"
        )


def _shown(similarity: float | None) -> str:
    return "undefined" if similarity is None else f"{similarity:.3f}"


def evaluate_translation(
    translated: torch.Tensor,
    truth: torch.Tensor,
    *,
    mask: torch.Tensor | None = None,
    erosion: int = 4,
    data_range: float = 1.0,
) -> TranslationScore:
    """Compares a translation with the true image of the same person in the same space.

    A translation that was deformed lies in another space than the source's true pair: compare
    one made without deformation, or pull it back by the inverse displacement first. Over the
    whole image PSNR and SSIM mostly tell whether the background and the outline agree; the
    figures inside the eroded mask tell about the tissue.

    Args:
        translated: ``(N, 1, *spatial)``, floating point, [0, 1].
        truth: The same shape.
        mask: Boolean, the same shape: the brain, or whichever part matters.
        erosion: Voxels to erode the mask by, so that its outline does not count.
        data_range: The largest minus the smallest value an image may take.

    Returns:
        The score.

    Raises:
        TypeError: An image is not floating point, or the mask is not boolean.
        ValueError: Shapes or devices differ, or erosion leaves nothing of the mask.
    """
    check_pair(translated, truth, ("translated", "truth"))
    whole_psnr = psnr(translated, truth, data_range=data_range)
    shortest = min(translated.shape[2:])
    whole_ssim = None
    if shortest >= SSIM_WINDOW:
        whole_ssim = ssim(translated, truth, data_range=data_range)
    if mask is None:
        return TranslationScore(whole_psnr, whole_ssim, None, None, None, erosion, None)
    check_mask(mask, translated)
    inside = erode(mask, erosion)
    voxels = int(inside.sum())
    if voxels == 0:
        raise ValueError(f"mask: nothing is left of it after erosion by {erosion} voxels")
    return TranslationScore(
        psnr=whole_psnr,
        ssim=whole_ssim,
        psnr_inside=psnr(translated, truth, data_range=data_range, mask=inside),
        ssim_inside=(
            ssim(translated, truth, data_range=data_range, mask=inside)
            if shortest >= SSIM_WINDOW // 2
            else None
        ),
        correlation_inside=correlation(translated, truth, mask=inside),
        erosion=erosion,
        voxels_inside=voxels,
    )
