"""The smoothness energies under the names, and with the arguments, of MONAI's losses."""

from __future__ import annotations

import math
from typing import NoReturn

import torch
from torch import Tensor, nn

from plasticine.ops import _checks, _words
from plasticine.ops.smoothness import smoothness

REDUCTIONS = ("none", "mean", "sum")


class _Energy(nn.Module):
    """MONAI's reductions of :func:`plasticine.smoothness` by central differences."""

    order: int

    def __init__(
        self, normalize: bool = False, reduction: str = "mean", **_unknown: NoReturn
    ) -> None:
        """Fixes the options.

        Args:
            normalize: whether components are divided by the number of voxels along their axis, and
                multiplied by that along each axis that they are derived along: the energy then
                hardly depends on the resolution at which a field is sampled.
            reduction: "mean" over samples, components and voxels; "sum" over them; "none": the mean
                of each sample, ``(N,)``.

        Raises:
            ValueError: ``reduction`` is not one of these.
        """
        if _unknown:
            _words.refuse(type(self), _unknown)
        super().__init__()
        _checks.one_of(reduction, "reduction", REDUCTIONS)
        self.normalize = normalize
        self.reduction = reduction

    @_words.checks_inside
    def forward(self, pred: Tensor, **_unknown: NoReturn) -> Tensor:
        """The energy of a field ``(N, d, *spatial)``, 2D or 3D: a scalar, or ``(N,)``."""
        if _unknown:
            _words.refuse(self.forward, _unknown)
        _checks.is_tensor(pred, "pred")
        ndim = _checks.field(pred, "pred")
        size = [int(n) for n in pred.shape[2:]]
        spacing = None
        if self.normalize:
            spacing = [1 / max(n, 1) for n in size]
            pred = pred.to(torch.promote_types(pred.dtype, torch.float32))
            pred = pred / pred.new_tensor(size).view(1, -1, *[1] * ndim)
        energy = smoothness(pred, order=self.order, scheme="central", spacing=spacing) / ndim
        if self.reduction == "mean":
            return energy.mean()
        if self.reduction == "none":
            return energy
        return energy.sum() * (ndim * math.prod([n - 2 if n > 2 else n for n in size]))

    def extra_repr(self) -> str:
        """The options."""
        return f"normalize={self.normalize}, reduction={self.reduction!r}"


class DiffusionLoss(_Energy):
    """The diffusion energy: :func:`plasticine.smoothness` of order 1 as MONAI's loss has it.

    Value and gradient are those of ``monai.losses.DiffusionLoss``, by central differences over the
    voxels with neighbours on all sides. Where MONAI is poorer:

    - it has no spacing, and so is wrong by its square for voxels that are not cubes of side 1:
      ``plasticine.smoothness(v, scheme="central", spacing=spacing)``;
    - central differences do not see what alternates from voxel to voxel: ``scheme="forward"`` does;
    - "none" of MONAI is an image, here one number a sample;
    - a field with an axis of fewer than three voxels raises there; here that axis contributes
      nothing.
    """

    order = 1


class BendingEnergyLoss(_Energy):
    """The bending energy: :func:`plasticine.smoothness` of order 2 as MONAI's loss has it.

    Value and gradient are those of ``monai.losses.BendingEnergyLoss`` since MONAI 1.6, by
    ``[1, -2, 1]`` and the mixed differences of four voxels, over the voxels with neighbours on all
    sides; each mixed term counts twice. Earlier versions derive twice by central differences, which
    skip every other voxel. Where MONAI is poorer:

    - it has no spacing, and so is wrong by its fourth power for voxels that are not cubes of side
      1: ``plasticine.smoothness(v, order=2, scheme="central", spacing=spacing)``;
    - "none" of MONAI is an image, here one number a sample;
    - a field with an axis of fewer than three voxels raises there; here that axis contributes
      nothing.
    """

    order = 2
