"""Training losses of the registration model, each a plain function of tensors."""

from plasticine.nn.losses.agreement import alignment, soft_dice
from plasticine.nn.losses.mutual_information import mutual_information
from plasticine.nn.losses.regularity import inverse_consistency, jacobian_hinge, smoothness

__all__ = [
    "alignment",
    "inverse_consistency",
    "jacobian_hinge",
    "mutual_information",
    "smoothness",
    "soft_dice",
]
