"""Mutual information as a module, with MONAI's definition and names."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from plasticine.ops import _checks, _words
from plasticine.ops.joint_histogram import joint_histogram

KERNELS = {"gaussian": "gaussian", "b-spline": "mattes"}
REDUCTIONS = ("mean", "sum", "none")


class GlobalMutualInformationLoss(nn.Module):
    """The negative mutual information of images, as ``monai.losses`` defines it.

    For what was trained with it: :func:`plasticine.mutual_information` is the better loss. Values
    and gradients are MONAI's but for those of "b-spline" at the voxels that hold an image's least
    and greatest value: its gradient runs through the range of values, this one's does not; and at
    those of ``target`` within 2^-16 of a bin of the middle between two bins, which go to both here,
    in part to either there, and move the gradient of a few voxels by much of their bin's. With
    "b-spline", a cubic window of ``pred`` and the nearest bin of ``target`` (Mattes et al.), there
    is no other gradient to ``target``.
    """

    def __init__(
        self,
        kernel_type: str = "gaussian",
        num_bins: int = 23,
        sigma_ratio: float = 0.5,
        reduction: str = "mean",
        smooth_nr: float = 1e-7,
        smooth_dr: float = 1e-7,
        *,
        backend: str = "auto",
        **_unknown: NoReturn,
    ) -> None:
        """Fixes the options.

        Args:
            kernel_type: "gaussian", of images in [0, 1], values beyond being clamped, or
                "b-spline", of images of any range: from the least to the greatest value of the
                batch.
            num_bins: bins of each image.
            sigma_ratio: of the Gaussian, in bins, from 0.25 to 1.
            reduction: of the batch: "mean", "sum" or "none".
            smooth_nr: added to the joint distribution.
            smooth_dr: added to the product of the marginal ones, and to the ratio of the two.
            backend: which backend serves it.

        Raises:
            TypeError: ``num_bins`` is no int.
            ValueError: an option is not one of these.
        """
        if _unknown:
            _words.refuse(GlobalMutualInformationLoss, _unknown)
        super().__init__()
        _checks.one_of(kernel_type, "kernel_type", tuple(KERNELS))
        _checks.one_of(reduction, "reduction", REDUCTIONS)
        self.kernel_type = kernel_type
        self.num_bins = _checks.count_of(num_bins, "num_bins")
        self.sigma_ratio = sigma_ratio
        self.reduction = reduction
        self.smooth_nr = smooth_nr
        self.smooth_dr = smooth_dr
        self.backend = backend

    @_words.checks_inside
    def forward(self, pred: Tensor, target: Tensor, **_unknown: NoReturn) -> Tensor:
        """The loss of two ``(N, C, *spatial)`` images: a scalar, or ``(N,)`` without reduction."""
        if _unknown:
            _words.refuse(self.forward, _unknown)
        _checks.is_tensor(pred, "pred")
        _checks.is_tensor(target, "target")
        is_gaussian = self.kernel_type == "gaussian"
        value_range: Any = (0.0, 1.0) if is_gaussian else self._ranges(pred, target)
        histogram = joint_histogram(
            pred,
            target,
            bins=self.num_bins,
            kernel=KERNELS[self.kernel_type],
            value_range=value_range,
            sigma=self.sigma_ratio if is_gaussian else 0.5,
            backend=self.backend,
        )
        joint = histogram / pred.shape[1:].numel()
        apart = joint.sum(2, keepdim=True) * joint.sum(1, keepdim=True)
        ratio = (joint + self.smooth_nr) / (apart + self.smooth_dr) + self.smooth_dr
        loss = -(joint * ratio.log()).sum((1, 2))
        if self.reduction == "none":
            return loss
        return loss.sum() if self.reduction == "sum" else loss.mean()

    def _ranges(self, *images: Tensor) -> Tensor:
        """The values at the ends of the bins: MONAI clamps one bin before the greatest value."""
        ends = [torch.stack(torch.aminmax(image.detach().float())) for image in images]
        bins = self.num_bins
        least, greatest = torch.stack(ends).unbind(1)
        greatest = least + (greatest - least) * ((bins - 5) / max(bins - 4, 1))
        return torch.stack([least, greatest], 1)[None]

    def extra_repr(self) -> str:
        """The options."""
        return (
            f"kernel_type={self.kernel_type!r}, num_bins={self.num_bins}, "
            f"reduction={self.reduction!r}, backend={self.backend!r}"
        )
