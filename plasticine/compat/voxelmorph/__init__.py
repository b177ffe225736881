"""VoxelMorph's layers and losses on this package's operators: 0.3.4's, and 0.2's.

The names of 0.3.4 are here; those of 0.2, which other projects have copied, are in ``layers`` and
``losses``, as in ``voxelmorph.torch``.
"""

from __future__ import annotations

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

REPLACEMENTS: tuple[Replacement, ...] = (
    Replacement("voxelmorph.nn.functional.spatial_transform", spatial_transform),
    Replacement("voxelmorph.nn.functional.integrate_vec", integrate_vec),
    Replacement("voxelmorph.nn.modules.SpatialTransformer", SpatialTransformer),
    Replacement("voxelmorph.nn.modules.IntegrateVelocityField", IntegrateVelocityField),
    Replacement("voxelmorph.nn.modules.ResizeDisplacementField", ResizeDisplacementField),
    # The losses of 0.3.4 are those of neurite, on which it stands.
    Replacement("neurite.nn.functional.ncc", ncc),
    Replacement("neurite.nn.functional.spatial_gradient", spatial_gradient),
    Replacement(f"{_OLD}.layers.SpatialTransformer", layers.SpatialTransformer),
    Replacement(f"{_OLD}.layers.VecInt", layers.VecInt),
    Replacement(f"{_OLD}.layers.ResizeTransform", layers.ResizeTransform),
    Replacement(f"{_OLD}.losses.NCC", losses.NCC),
    Replacement(f"{_OLD}.losses.Grad", losses.Grad),
)
