"""Modules over the operators."""

from plasticine.nn.invert import Invert
from plasticine.nn.splat import Splat
from plasticine.nn.warp import Compose, Exponential, Warp, WarpExponential

__all__ = ["Compose", "Exponential", "Invert", "Splat", "Warp", "WarpExponential"]
