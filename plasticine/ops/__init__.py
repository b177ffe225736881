"""The operators: their contracts, checks, autograd, and the choice of a backend."""

from plasticine.ops._mutual_information import mutual_information
from plasticine.ops._on_torch import (
    correlation_ratio,
    normalized_gradient_field,
    sum_of_squared_differences,
)
from plasticine.ops._operator import REGISTRY as REGISTRY
from plasticine.ops.compose import compose
from plasticine.ops.exponential import exponential
from plasticine.ops.folding import Folding, folding
from plasticine.ops.gaussian_smooth import gaussian_smooth
from plasticine.ops.invert import Inverse, invert
from plasticine.ops.jacobian import jacobian_determinant
from plasticine.ops.jacobian_penalty import jacobian_penalty
from plasticine.ops.joint_histogram import joint_histogram
from plasticine.ops.lncc import lncc
from plasticine.ops.mind_distance import mind_distance
from plasticine.ops.smoothness import smoothness
from plasticine.ops.splat import splat
from plasticine.ops.spline_coefficients import spline_coefficients
from plasticine.ops.warp import warp
from plasticine.ops.warp_exponential import warp_exponential

__all__ = [
    "Folding",
    "Inverse",
    "compose",
    "correlation_ratio",
    "exponential",
    "folding",
    "gaussian_smooth",
    "invert",
    "jacobian_determinant",
    "jacobian_penalty",
    "joint_histogram",
    "lncc",
    "mind_distance",
    "mutual_information",
    "normalized_gradient_field",
    "smoothness",
    "splat",
    "spline_coefficients",
    "sum_of_squared_differences",
    "warp",
    "warp_exponential",
]
