"""Numbers that say how good a translation is, each with its definition."""

from plasticine.metrics.images import correlation, psnr, ssim, ssim_map
from plasticine.metrics.masks import dice, erode
from plasticine.metrics.translation import TranslationScore, evaluate_translation

__all__ = [
    "TranslationScore",
    "correlation",
    "dice",
    "erode",
    "evaluate_translation",
    "psnr",
    "ssim",
    "ssim_map",
]
