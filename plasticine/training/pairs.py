"""Which source and which target a registration is shown together."""

from __future__ import annotations

import functools
from typing import Protocol

import torch
from torch import Tensor

from plasticine.registration.matching import nearest_targets, structure_descriptor
from plasticine.registration.transport import centroid, shape_distance, transport_plan, whole
from plasticine.structure import StructureMap
from plasticine.training.data import Domains
from plasticine.training.draws import Draws


class Pairs(Protocol):
    """Draws pairs of a source and a target."""

    def __call__(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """Indices of the sources and of their targets, each (count,) int64 on the device."""

    def offset(self, source: Tensor, target: Tensor) -> Tensor | None:
        """Where in each target a source's voxel lies: (count, d) voxels from it, or None for 0."""


def targets_of_each(domains: Domains) -> int:
    """How many targets every source may be shown, at least.

    Raises:
        ValueError: a source may be shown none.
    """
    available = len(domains.target)
    if domains.pairable is not None:
        available = int(domains.pairable.sum(1).min())
    if available == 0:
        raise ValueError("a source has no target but those of its own subject")
    return available


class NearestPairs:
    """Each source with one of the targets that are nearest to it in structure.

    Args:
        domains: the images, on their device.
        structure: the map by which they are compared.
        count: targets to choose from for each source, at most.

    Raises:
        ValueError: a source may be shown no target.
    """

    def __init__(self, domains: Domains, structure: StructureMap, count: int) -> None:
        available = targets_of_each(domains)
        source, target = (
            structure_descriptor(
                images,
                functools.partial(structure, domain=domain),
                labels=labels if structure.needs_labels else None,
            )
            for domain, images, labels in (
                ("source", domains.source, domains.source_labels),
                ("target", domains.target, domains.target_labels),
            )
        )
        self.nearest = nearest_targets(
            source, target, min(count, available), allowed=domains.pairable
        )

    def __call__(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """Any source, and any of those nearest to it."""
        device = self.nearest.device
        index = draws.integers(0, len(self.nearest)).to(device)
        choice = draws.integers(0, self.nearest.shape[1]).to(device)
        return index, self.nearest[index, choice]

    def offset(self, source: Tensor, target: Tensor) -> Tensor | None:
        """None: they are compared where they lie."""
        return None


class TransportedPairs:
    """Each source with the targets that the optimal transport of labelled shapes gives it.

    The shapes of a pair are laid over one another: where in the image an organ lies is no part
    of how the populations differ, and could not be told from the source alone.

    Args:
        domains: the images with their label maps, on their device.
        labels: the map whose channels are the shapes.
        entropy: as ``transport_plan`` has it.

    Raises:
        ValueError: an image is without a label, or may be paired with none.
    """

    def __init__(self, domains: Domains, labels: StructureMap, entropy: float) -> None:
        source, target = (
            labels(images, labels=of_images)
            for images, of_images in (
                (domains.source, domains.source_labels),
                (domains.target, domains.target_labels),
            )
        )
        distance = shape_distance(source, target)
        self.plan = transport_plan(distance, entropy, allowed=domains.pairable)
        self.source_centroid, self.target_centroid = centroid(source), centroid(target)

    def __call__(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """Any source, and a target drawn from its row of the plan."""
        device = self.plan.device
        index = draws.integers(0, len(self.plan)).to(device)
        reached = self.plan[index].cumsum(1)
        wanted = draws.uniform(1).to(device) * reached[:, -1:]
        choice = torch.searchsorted(reached, wanted, right=True)[:, 0]
        return index, choice.clamp_max(self.plan.shape[1] - 1)

    def offset(self, source: Tensor, target: Tensor) -> Tensor | None:
        """Whole voxels between the centroids, so that no target is blurred by it."""
        return whole(self.target_centroid[target] - self.source_centroid[source])
