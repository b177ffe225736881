"""Numbers that say how good a translation is, each with its definition."""

from plasticine.metrics.contrast import lesion_contrast
from plasticine.metrics.deformation import (
    end_point_error,
    end_point_error_map,
    inverse_consistency_error,
)
from plasticine.metrics.distribution import (
    FEATURE_EXTRACTOR,
    RandomFeatures,
    frechet_distance,
    kernel_distance,
)
from plasticine.metrics.images import correlation, psnr, ssim, ssim_map
from plasticine.metrics.masks import dice, dilate, erode
from plasticine.metrics.paired import PairedTest, paired_test
from plasticine.metrics.recolouring import intensity_residual, recolouring
from plasticine.metrics.surfaces import SurfaceDistance, surface_distance
from plasticine.metrics.translation import TranslationScore, evaluate_translation

__all__ = [
    "FEATURE_EXTRACTOR",
    "PairedTest",
    "RandomFeatures",
    "SurfaceDistance",
    "TranslationScore",
    "correlation",
    "dice",
    "dilate",
    "end_point_error",
    "end_point_error_map",
    "erode",
    "evaluate_translation",
    "frechet_distance",
    "intensity_residual",
    "inverse_consistency_error",
    "kernel_distance",
    "lesion_contrast",
    "paired_test",
    "psnr",
    "recolouring",
    "ssim",
    "ssim_map",
    "surface_distance",
]
