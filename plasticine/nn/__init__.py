"""Modules over the operators."""

from plasticine.nn.invert import Invert
from plasticine.nn.losses import GlobalMutualInformationLoss
from plasticine.nn.losses.lncc import LocalNormalizedCrossCorrelationLoss
from plasticine.nn.losses.smoothness import BendingEnergyLoss, DiffusionLoss
from plasticine.nn.splat import Splat
from plasticine.nn.warp import Compose, Exponential, Warp, WarpExponential

__all__ = [
    "BendingEnergyLoss",
    "Compose",
    "DiffusionLoss",
    "Exponential",
    "GlobalMutualInformationLoss",
    "Invert",
    "LocalNormalizedCrossCorrelationLoss",
    "Splat",
    "Warp",
    "WarpExponential",
]
