"""Every operator in plain PyTorch: any dtype, any device, differentiable by autograd.

These functions are the executable definition that the fast backends are tested against. They favour
being read over being fast, and trust their input: the checks live in :mod:`plasticine.ops`.
"""

from plasticine.reference.compose import compose
from plasticine.reference.correlation_ratio import correlation_ratio
from plasticine.reference.derivatives import double_backward, gradients, warp_double_backward
from plasticine.reference.exponential import exponential, first_displacement
from plasticine.reference.folding import folding
from plasticine.reference.gaussian_smooth import gaussian_smooth
from plasticine.reference.invert import invert, invert_adjoint
from plasticine.reference.jacobian import jacobian_determinant
from plasticine.reference.jacobian_penalty import jacobian_penalty
from plasticine.reference.joint_histogram import joint_histogram
from plasticine.reference.lncc import lncc
from plasticine.reference.mind_distance import mind_distance
from plasticine.reference.normalized_gradient_field import normalized_gradient_field
from plasticine.reference.smoothness import smoothness
from plasticine.reference.splat import splat
from plasticine.reference.spline_coefficients import spline_coefficients
from plasticine.reference.sum_of_squared_differences import sum_of_squared_differences
from plasticine.reference.warp import warp
from plasticine.reference.warp_exponential import warp_exponential

__all__ = [
    "compose",
    "correlation_ratio",
    "double_backward",
    "exponential",
    "first_displacement",
    "folding",
    "gaussian_smooth",
    "gradients",
    "invert",
    "invert_adjoint",
    "jacobian_determinant",
    "jacobian_penalty",
    "joint_histogram",
    "lncc",
    "mind_distance",
    "normalized_gradient_field",
    "smoothness",
    "splat",
    "spline_coefficients",
    "sum_of_squared_differences",
    "warp",
    "warp_double_backward",
    "warp_exponential",
]
