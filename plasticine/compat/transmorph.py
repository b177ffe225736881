"""TransMorph's layers and losses on this package's operators.

TransMorph is no package: its layers, copies of VoxelMorph's of 0.2, stand in the files of whoever
uses it. ``patch("transmorph", TransMorph, losses, utils)`` serves those of the modules that it is
given. Since such copies are changed, each is run on a small image and compared with ours first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from plasticine.compat import _handover, _probes
from plasticine.compat._patching import Replacement
from plasticine.compat.voxelmorph import layers, losses
from plasticine.compat.voxelmorph.layers import ResizeTransform, SpatialTransformer, VecInt

__all__ = [
    "Grad",
    "Grad3d",
    "NCC_vxm",
    "ResizeTransform",
    "SpatialTransformer",
    "VecInt",
    "register_model",
]


class register_model(_handover.DropIn, nn.Module):  # noqa: N801 - TransMorph's name
    """Warps an image by a field, both moved to the GPU where there is one."""

    transformer_class = SpatialTransformer

    def __init__(self, img_size: Sequence[int] = (64, 256, 256), mode: str = "bilinear") -> None:
        """Fixes the options of the transformer: the size of the field, and the mode."""
        super().__init__()
        self.spatial_trans = self.transformer_class(img_size, mode)

    def forward(self, x: Sequence[Tensor]) -> Tensor:
        """Warps ``x[0]``, an image, by ``x[1]``, a displacement in voxels."""
        image, flow = (each.cuda() if torch.cuda.is_available() else each for each in x[:2])
        warped: Tensor = self.spatial_trans(image, flow)
        return warped


class UnalignedSpatialTransformer(SpatialTransformer):
    """That of ``OASIS/TransMorph``, which samples with ``align_corners=False``.

    It normalises its grid for True: a zero displacement does not give back the image.
    """

    align_corners = False


class UnalignedVecInt(VecInt):
    """:class:`VecInt` by such a transformer."""

    transformer_class = UnalignedSpatialTransformer


class UnalignedRegisterModel(register_model):
    """:class:`register_model` by such a transformer."""

    transformer_class = UnalignedSpatialTransformer


class NCC_vxm(_handover.DropIn, nn.Module):  # noqa: N801 - TransMorph's name
    """:class:`plasticine.compat.voxelmorph.losses.NCC` as a module."""

    def __init__(self, win: Sequence[int] | None = None) -> None:
        """Fixes the window: its sides; None for 9 voxels."""
        super().__init__()
        self.win = win

    def forward(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The loss of two images ``(N, 1, *spatial)``: a scalar."""
        return losses.negative_ncc(y_true, y_pred, self.win, type(self).__name__, "forward")


class Grad3d(_handover.DropIn, nn.Module):
    """:class:`plasticine.compat.voxelmorph.losses.Grad` as a module."""

    def __init__(self, penalty: str = "l1", loss_mult: float | None = None) -> None:
        """Fixes the options.

        Args:
            penalty: "l1" or "l2".
            loss_mult: a factor, or None.
        """
        super().__init__()
        self.penalty = penalty
        self.loss_mult = loss_mult

    def forward(self, y_pred: Tensor, y_true: Any) -> Tensor:
        """The loss of a field ``(N, d, *spatial)``: a scalar; ``y_true`` is not used."""
        return losses.Grad(self.penalty, self.loss_mult).loss(y_true, y_pred)


class Grad(Grad3d):
    """:class:`Grad3d` in two dimensions."""


def _probe_register_model(module: Callable[..., Any]) -> Tensor:
    image, field = _probes.tensor(1, 1, 5, 6, 7), _probes.field()
    warped: Tensor = module((5, 6, 7), "bilinear").to(field.device)([image, field])
    return warped


def _probe_similarity(loss: Callable[..., Any]) -> Tensor:
    found: Tensor = loss()(*_probes.images())
    return found


def _probe_smoothness(loss: Callable[..., Any]) -> Tensor:
    found: Tensor = loss("l2", loss_mult=2)(_probes.field(), _probes.field())
    return found


def _probe_smoothness_2d(loss: Callable[..., Any]) -> Tensor:
    field = _probes.tensor(1, 2, 5, 6)
    found: Tensor = loss("l2", loss_mult=2)(field, field)
    return found


# Of several of one name, the one whose numbers are those of the copy.
REPLACEMENTS: tuple[Replacement, ...] = (
    Replacement("SpatialTransformer", SpatialTransformer, _probes.transformer),
    Replacement("SpatialTransformer", UnalignedSpatialTransformer, _probes.transformer),
    Replacement("register_model", register_model, _probe_register_model),
    Replacement("register_model", UnalignedRegisterModel, _probe_register_model),
    Replacement("VecInt", VecInt, _probes.integration),
    Replacement("VecInt", UnalignedVecInt, _probes.integration),
    Replacement("ResizeTransform", layers.ResizeTransform, _probes.resizing),
    Replacement("NCC_vxm", NCC_vxm, _probe_similarity),
    Replacement("Grad3d", Grad3d, _probe_smoothness),
    Replacement("Grad", Grad, _probe_smoothness_2d),
    Replacement("Grad", losses.Grad, _probes.smoothness),
)
