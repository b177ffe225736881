"""The operators: their contracts, checks, autograd, and the choice of a backend."""

from plasticine.ops._operator import REGISTRY as REGISTRY
from plasticine.ops.compose import compose
from plasticine.ops.exponential import exponential
from plasticine.ops.folding import Folding, folding
from plasticine.ops.invert import Inverse, invert
from plasticine.ops.jacobian import jacobian_determinant
from plasticine.ops.lncc import lncc
from plasticine.ops.splat import splat
from plasticine.ops.spline_coefficients import spline_coefficients
from plasticine.ops.warp import warp
from plasticine.ops.warp_exponential import warp_exponential

__all__ = [
    "Folding",
    "Inverse",
    "compose",
    "exponential",
    "folding",
    "invert",
    "jacobian_determinant",
    "lncc",
    "splat",
    "spline_coefficients",
    "warp",
    "warp_exponential",
]
