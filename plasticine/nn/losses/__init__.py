"""Training losses of the registration model, and losses with MONAI's names."""

from plasticine.nn.losses.agreement import alignment, soft_dice
from plasticine.nn.losses.lncc import LocalNormalizedCrossCorrelationLoss
from plasticine.nn.losses.mutual_information import GlobalMutualInformationLoss
from plasticine.nn.losses.regularity import inverse_consistency
from plasticine.nn.losses.smoothness import BendingEnergyLoss, DiffusionLoss

__all__ = [
    "BendingEnergyLoss",
    "DiffusionLoss",
    "GlobalMutualInformationLoss",
    "LocalNormalizedCrossCorrelationLoss",
    "alignment",
    "inverse_consistency",
    "soft_dice",
]
