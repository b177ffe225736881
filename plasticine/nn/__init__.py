"""Modules over the operators."""

from plasticine.nn.warp import Compose, Exponential, Warp

__all__ = ["Compose", "Exponential", "Warp"]
