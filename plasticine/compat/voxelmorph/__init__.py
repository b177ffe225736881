"""VoxelMorph's layers and losses on this package's operators: 0.3.4's, and 0.2's.

The names of 0.3.4 are here; those of 0.2, which other projects have copied, are in ``layers`` and
``losses``, as in ``voxelmorph.torch``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from plasticine.compat import _probes
from plasticine.compat._patching import Replacement
from plasticine.compat.voxelmorph import layers, losses
from plasticine.compat.voxelmorph.functional import integrate_vec, spatial_transform
from plasticine.compat.voxelmorph.losses import ncc, spatial_gradient
from plasticine.compat.voxelmorph.modules import (
    IntegrateVelocityField,
    ResizeDisplacementField,
    SpatialTransformer,
)

__all__ = [
    "IntegrateVelocityField",
    "ResizeDisplacementField",
    "SpatialTransformer",
    "integrate_vec",
    "layers",
    "losses",
    "ncc",
    "spatial_gradient",
    "spatial_transform",
]

_OLD = "voxelmorph.torch"


def _of(*inputs: Callable[[], Tensor], **options: Any) -> Callable[[Callable[..., Any]], Tensor]:
    """Calls a function with these."""

    def probe(function: Callable[..., Any]) -> Tensor:
        found: Tensor = function(*(make() for make in inputs), **options)
        return found

    return probe


def _with(*inputs: Callable[[], Tensor], **options: Any) -> Callable[[Callable[..., Any]], Tensor]:
    """Calls a layer of these options with these."""

    def probe(module: Callable[..., Any]) -> Tensor:
        layer: Callable[..., Any] = module(**options)
        return _of(*inputs)(layer)

    return probe


def _image() -> Tensor:
    return _probes.tensor(1, 1, 5, 6, 7)


def _probe_ncc(function: Callable[..., Any]) -> Tensor:
    found: Tensor = function(*_probes.images())
    return found


REPLACEMENTS: tuple[Replacement, ...] = (
    Replacement(
        "voxelmorph.nn.functional.spatial_transform", spatial_transform, _of(_image, _probes.field)
    ),
    Replacement(
        "voxelmorph.nn.functional.integrate_vec", integrate_vec, _of(_probes.field, steps=3)
    ),
    Replacement(
        "voxelmorph.nn.modules.SpatialTransformer", SpatialTransformer, _with(_image, _probes.field)
    ),
    Replacement(
        "voxelmorph.nn.modules.IntegrateVelocityField",
        IntegrateVelocityField,
        _with(_probes.field, steps=3),
    ),
    Replacement(
        "voxelmorph.nn.modules.ResizeDisplacementField",
        ResizeDisplacementField,
        _with(_probes.field, scale_factor=0.5),
    ),
    # The losses of 0.3.4 are those of neurite, on which it stands.
    Replacement("neurite.nn.functional.ncc", ncc, _probe_ncc),
    Replacement("neurite.nn.functional.spatial_gradient", spatial_gradient, _of(_probes.field)),
    Replacement(
        f"{_OLD}.layers.SpatialTransformer", layers.SpatialTransformer, _probes.transformer
    ),
    Replacement(f"{_OLD}.layers.VecInt", layers.VecInt, _probes.integration),
    Replacement(f"{_OLD}.layers.ResizeTransform", layers.ResizeTransform, _probes.resizing),
    Replacement(f"{_OLD}.losses.NCC", losses.NCC, _probes.similarity),
    Replacement(f"{_OLD}.losses.Grad", losses.Grad, _probes.smoothness),
)
