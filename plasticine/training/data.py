"""The images of the two domains, and their random deformation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from plasticine.ops.exponential import exponential
from plasticine.ops.warp import warp


@dataclass(frozen=True)
class Domains:
    """Unpaired images of two domains.

    Attributes:
        source: (n, 1, *spatial) float32 within [-1, 1].
        target: (m, 1, *spatial), likewise.
        pairable: (n, m) bool, false where source and target are of one subject and must not
            meet; None where no subjects are known.
    """

    source: Tensor
    target: Tensor
    pairable: Tensor | None = None

    def to(self, device: str | torch.device) -> Domains:
        """The same on ``device``."""
        pairable = None if self.pairable is None else self.pairable.to(device)
        return Domains(self.source.to(device), self.target.to(device), pairable)


def load_domains(data: dict[str, Any], folder: Path, seed: int) -> Domains:
    """Read the images that a recipe's ``data`` table names, each domain in its own random order.

    Args:
        data: ``file`` (an .npz below ``folder``), ``source`` and ``target`` (its keys),
            ``maximum``, the value that is white, and optionally ``crop``, the spatial size
            that is cut from the middle, and ``source_subjects`` and ``target_subjects``, who is
            in each array: images of one subject are then never shown to each other.
        folder: the data folder.
        seed: of the shuffle, after which no index of one domain tells of the other.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: a key is missing or its array is not a stack of images.
    """
    path = folder / data["file"]
    if not path.is_file():
        raise FileNotFoundError(f"no training data at {path}: set PLASTICINE_DATA to its folder")
    with np.load(path) as archive:
        stacks = {
            domain: [_stack(archive, key, path) for key in data[domain]]
            for domain in ("source", "target")
        }
    generator = torch.Generator().manual_seed(seed)
    domains, subjects = {}, {}
    for domain, parts in stacks.items():
        images = torch.from_numpy(np.concatenate(parts)).float()[:, None]
        images = crop_to(images, data.get("crop")) * (2 / data["maximum"]) - 1
        order = torch.randperm(len(images), generator=generator)
        domains[domain] = images[order]
        names = data.get(f"{domain}_subjects", [])
        if names and len(names) != len(parts):
            raise ValueError(f"{domain}_subjects must name {len(parts)} arrays; got {names}")
        subjects[domain] = np.repeat(names, [len(part) for part in parts])[order] if names else None
    if subjects["source"] is None or subjects["target"] is None:
        return Domains(**domains)
    differ = subjects["source"][:, None] != subjects["target"][None]
    return Domains(**domains, pairable=torch.from_numpy(differ))


def crop_to(images: Tensor, size: Sequence[int] | None) -> Tensor:
    """The middle of the images, of spatial ``size``; all of them where it is None.

    Raises:
        ValueError: size has another number of axes, or is larger than the images.
    """
    if size is None:
        return images
    if len(size) != images.ndim - 2 or any(
        not 1 <= cut <= n for cut, n in zip(size, images.shape[2:], strict=True)
    ):
        raise ValueError(f"crop {list(size)} does not fit images of {tuple(images.shape[2:])}")
    for axis, cut in enumerate(size, start=2):
        images = images.narrow(axis, (images.shape[axis] - cut) // 2, cut)
    return images


def _stack(archive: Any, key: str, path: Path) -> np.ndarray:
    if key not in archive:
        raise ValueError(f"{path} holds no array {key!r}; it holds {', '.join(archive)}")
    stack = archive[key]
    if stack.ndim not in (3, 4):
        raise ValueError(
            f"{key!r} of {path} is not a stack of 2D or 3D images: its shape is {stack.shape}"
        )
    return stack


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

    rotation: float = 0.0
    scaling: float = 0.0
    translation: float = 0.0
    mirror: bool = False
    displacement: float = 0.0
    smoothness: int = 16

    def __call__(self, images: list[Tensor], generator: torch.Generator) -> list[Tensor]:
        """Warp images that belong together by the same map; edges are repeated.

        Args:
            images: each (N, C, *spatial), of one spatial size.
            generator: a CPU generator.
        """
        size = tuple(images[0].shape[2:])
        count, device = len(images[0]), images[0].device
        affine = self._affine(count, size, generator).to(device)
        displacement = exponential(self._velocity(count, size, generator).to(device), steps=5)
        return [warp(image, displacement, affine=affine) for image in images]

    def _affine(self, count: int, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
        ndim = len(size)

        def uniform(*shape: int) -> Tensor:
            return 2 * torch.rand(*shape, generator=generator) - 1

        linear = torch.diag_embed(1 + self.scaling * uniform(count, ndim))
        if self.mirror:
            flip = torch.where(uniform(count) < 0, -1.0, 1.0)
            linear[:, :, -1] *= flip[:, None]
        for first in range(ndim):
            for second in range(first + 1, ndim):
                angle = math.radians(self.rotation) * uniform(count)
                plane = torch.eye(ndim).repeat(count, 1, 1)
                plane[:, first, first] = plane[:, second, second] = angle.cos()
                plane[:, first, second] = -angle.sin()
                plane[:, second, first] = angle.sin()
                linear = plane @ linear
        centre = (torch.tensor(size, dtype=torch.float32) - 1) / 2
        offset = centre - linear @ centre + self.translation * uniform(count, ndim)
        return torch.cat([linear, offset[:, :, None]], 2)

    def _velocity(self, count: int, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
        ndim = len(size)
        control = [max(2, math.ceil(n / self.smoothness) + 1) for n in size]
        coarse = self.displacement * torch.randn(count, ndim, *control, generator=generator)
        kind = "bilinear" if ndim == 2 else "trilinear"
        return functional.interpolate(coarse, size=size, mode=kind, align_corners=True)
