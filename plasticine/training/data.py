"""The images of the two domains, and their random deformation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from plasticine.ops.exponential import exponential
from plasticine.ops.warp import warp
from plasticine.training.draws import Draws


@dataclass(frozen=True)
class Domains:
    """Unpaired images of two domains.

    Attributes:
        source: (n, 1, *spatial) float32 within [-1, 1].
        target: (m, 1, *spatial), likewise.
        pairable: (n, m) bool, false where source and target are of one subject and must not
            meet; None where no subjects are known.
        source_labels: (n, 1, *spatial) int64, the source's label maps; None without them.
        target_labels: (m, 1, *spatial), likewise.
    """

    source: Tensor
    target: Tensor
    pairable: Tensor | None = None
    source_labels: Tensor | None = None
    target_labels: Tensor | None = None

    def to(self, device: str | torch.device) -> Domains:
        """The same on ``device``."""
        present = {f.name: getattr(self, f.name) for f in fields(self)}
        return Domains(
            **{k: tensor.to(device) for k, tensor in present.items() if tensor is not None}
        )


@dataclass(frozen=True)
class Images:
    """The images of one domain, in the order they were read.

    Attributes:
        images: (n, 1, *spatial) float32 within [-1, 1].
        subjects: (n,) str, whose each image is; None where that is not known.
        labels: (n, 1, *spatial) int64, the images' label maps; None without them.
    """

    images: Tensor
    subjects: np.ndarray | None
    labels: Tensor | None

    def shuffled(self, generator: torch.Generator) -> Images:
        """In random order, after which no index of one domain tells of the other."""
        order = torch.randperm(len(self.images), generator=generator)
        subjects = None if self.subjects is None else self.subjects[order.numpy()]
        labels = None if self.labels is None else self.labels[order]
        return Images(self.images[order], subjects, labels)


def unpaired(source: Images, target: Images, seed: int) -> Domains:
    """The two domains, each in its own random order; images of one subject are kept apart."""
    generator = torch.Generator().manual_seed(seed)
    source, target = source.shuffled(generator), target.shuffled(generator)
    differ = None
    if source.subjects is not None and target.subjects is not None:
        differ = torch.from_numpy(source.subjects[:, None] != target.subjects[None])
    return Domains(source.images, target.images, differ, source.labels, target.labels)


def check_size(name: str, size: Sequence[int], images: Tensor) -> None:
    """Refuses a spatial size that does not fit into the images.

    Raises:
        ValueError: size has another number of axes, or is larger than the images.
    """
    if len(size) != images.ndim - 2 or any(
        not 1 <= cut <= n for cut, n in zip(size, images.shape[2:], strict=True)
    ):
        raise ValueError(f"{name} {list(size)} does not fit images of {tuple(images.shape[2:])}")


def crop_to(images: Tensor, size: Sequence[int] | None) -> Tensor:
    """The middle of the images, of spatial ``size``; all of them where it is None.

    Raises:
        ValueError: size has another number of axes, or is larger than the images.
    """
    if size is None:
        return images
    check_size("crop", size, images)
    for axis, cut in enumerate(size, start=2):
        images = images.narrow(axis, (images.shape[axis] - cut) // 2, cut)
    return images


def cut_patches(images: list[Tensor], size: Sequence[int], draws: Draws) -> list[Tensor]:
    """The same random patch of images that belong together, another one for each sample.

    Args:
        images: each (N, C, *spatial), of one spatial size that the patch fits into.
        size: spatial size of a patch.
        draws: for the N samples.
    """
    room = torch.tensor([n - cut + 1 for n, cut in zip(images[0].shape[2:], size, strict=True)])
    corners = (draws.uniform(len(size)) * room).long().tolist()

    def patch(image: Tensor, corner: list[int]) -> Tensor:
        for axis, (start, cut) in enumerate(zip(corner, size, strict=True), start=1):
            image = image.narrow(axis, start, cut)
        return image

    return [torch.stack([patch(*pair) for pair in zip(x, corners, strict=True)]) for x in images]


@dataclass(frozen=True)
class RandomDeformation:
    """A random affine map and a random diffeomorphism, one for each image of a batch.

    Attributes:
        rotation: largest angle in each plane, degrees.
        scaling: largest change of each axis' scale, as a fraction.
        translation: largest shift along each axis, voxels.
        mirror: whether half of the images are mirrored along the last axis.
        displacement: standard deviation of the velocity, voxels.
        smoothness: distance between the velocity's control points, voxels.
    """

    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    scaling: Annotated[float, Field(ge=0, lt=1)] = 0.0
    translation: Annotated[float, Field(ge=0, le=1000)] = 0.0
    mirror: bool = False
    displacement: Annotated[float, Field(ge=0, le=1000)] = 0.0
    smoothness: Annotated[int, Field(ge=1, le=1000)] = 16

    def __call__(self, images: list[Tensor], draws: Draws) -> list[Tensor]:
        """Warp images that belong together by the same map; edges are repeated.

        Args:
            images: each (N, C, *spatial), of one spatial size.
            draws: for the N samples.
        """
        size, device = tuple(images[0].shape[2:]), images[0].device
        affine = self._affine(size, draws).to(device)
        displacement = exponential(self._velocity(size, draws).to(device), steps=5)
        return [warp(image, displacement, affine=affine) for image in images]

    def _affine(self, size: tuple[int, ...], draws: Draws) -> Tensor:
        ndim = len(size)

        def uniform(*shape: int) -> Tensor:
            return 2 * draws.uniform(*shape) - 1

        linear = torch.diag_embed(1 + self.scaling * uniform(ndim))
        if self.mirror:
            flip = torch.where(uniform() < 0, -1.0, 1.0)
            linear[:, :, -1] *= flip[:, None]
        for first in range(ndim):
            for second in range(first + 1, ndim):
                angle = math.radians(self.rotation) * uniform()
                plane = torch.eye(ndim).repeat(draws.count, 1, 1)
                plane[:, first, first] = plane[:, second, second] = angle.cos()
                plane[:, first, second] = -angle.sin()
                plane[:, second, first] = angle.sin()
                linear = plane @ linear
        centre = (torch.tensor(size, dtype=torch.float32) - 1) / 2
        offset = centre - linear @ centre + self.translation * uniform(ndim)
        return torch.cat([linear, offset[:, :, None]], 2)

    def _velocity(self, size: tuple[int, ...], draws: Draws) -> Tensor:
        ndim = len(size)
        control = [max(2, math.ceil(n / self.smoothness) + 1) for n in size]
        coarse = self.displacement * draws.normal(ndim, *control)
        kind = "bilinear" if ndim == 2 else "trilinear"
        return functional.interpolate(coarse, size=size, mode=kind, align_corners=True)
