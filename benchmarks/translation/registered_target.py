"""Registration without translation: a real target image, moved onto the source.

The answer to a source slice is the training image of the target domain that is nearest to it in
structure, aligned with it. It looks real in every pixel and is somebody else's anatomy.
"""

from __future__ import annotations

import torch
from rich.progress import Progress
from torch import Tensor
from torch.nn import functional

from plasticine.ops.warp import warp
from plasticine.registration import (
    Deformation,
    RegistrationObjective,
    affine_exponential,
    nearest_targets,
    structure_descriptor,
)
from plasticine.structure import MIND

OBJECTIVE = RegistrationObjective(affine=1.0)
"""The weights of our registration, but for the affine part's: here it is to be used."""

CONTROL = 4
"""Voxels between control points of the velocity."""


def nearest_target(source: Tensor, target: Tensor) -> Tensor:
    """The target image nearest to each source in MIND.

    Args:
        source: (N, 1, height, width) within [-1, 1].
        target: (m, 1, height, width), unpaired.
    """
    structure = MIND(2)
    found, offered = (structure_descriptor(images, structure) for images in (source, target))
    return target[nearest_targets(found, offered, 1)[:, 0]]


def register(
    moving: Tensor, fixed: Tensor, *, deformable: bool, iterations: int = 100, seed: int = 0
) -> Tensor:
    """The moving images, aligned with the fixed ones of another contrast.

    An affine map, and where it is deformable a stationary velocity on control points with it, of
    each pair alone, by Adam on the objective that our network is trained with.

    Args:
        moving: (N, 1, height, width) within [-1, 1].
        fixed: the same shape.
        deformable: whether there is more than the affine map.
        iterations: of Adam.
        seed: of the objective's jitter.

    Returns:
        moving∘φ, the shape of moving.
    """
    count, size = len(fixed), fixed.shape[2:]
    structure = MIND(2)
    maps = structure(moving), structure(fixed)
    half = torch.tensor([n / 2 for n in size])
    grid = [-(-n // CONTROL) + 1 for n in size]
    log_affine = torch.zeros(count, 2, 3, requires_grad=True)
    control = torch.zeros(count, 2, *grid, requires_grad=deformable)

    def deformation() -> Deformation:
        linear, translation = log_affine.split([2, 1], dim=2)
        in_voxels = torch.cat([linear, translation * half[:, None]], 2)
        affine, inverse = affine_exponential(in_voxels, size)
        velocity = functional.interpolate(control, size, mode="bilinear", align_corners=True)
        return Deformation(velocity, affine, inverse, log_affine=in_voxels)

    groups = [{"params": [log_affine], "lr": 0.005}]
    if deformable:
        groups.append({"params": [control], "lr": 0.1})
    optimizer = torch.optim.Adam(groups)
    draw = torch.Generator().manual_seed(seed)
    with Progress() as bar:
        kind = "affine map and velocity" if deformable else "affine map"
        for _ in bar.track(range(iterations), description=f"registering: {kind}"):
            offset = OBJECTIVE.offset(fixed, torch.rand(count, 2, generator=draw))
            terms = OBJECTIVE.deformation_terms(deformation(), moving, fixed, *maps, offset)
            optimizer.zero_grad()
            OBJECTIVE.weighted(terms).backward()
            optimizer.step()
    with torch.no_grad():
        return warp(moving, deformation().displacement())
