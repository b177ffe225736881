"""Random changes of intensity, by which a network learns not to trust the last grey level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from plasticine.ops.gaussian_smooth import gaussian_smooth
from plasticine.training.draws import Draws

KNOTS = 8
"""Pieces of the increasing curve that grey levels are sent through."""
_FLATTEST = 0.1
_CONTROL = 4


@dataclass(frozen=True)
class RandomIntensity:
    """A random change of intensity, another one for each image of a batch.

    A pseudo-source, made by a network, and a real source differ a little in grey levels,
    sharpness and noise. What is trained on the one and meets the other must not mind.

    Attributes:
        remap: largest share, within [0, 1], of a random increasing curve in the mix with the
            image.
        offset: largest shift of the body's intensity.
        field: standard deviation of a smooth multiplicative field.
        blur: width of a Gaussian blur in voxels, a random share of which is mixed into half of
            the images.
        noise: largest standard deviation of white noise in the body.
        background: intensity at and below which a voxel is background, which gets neither
            offset nor noise.
    """

    remap: Annotated[float, Field(ge=0, le=1)] = 0.5
    offset: Annotated[float, Field(ge=0, le=1)] = 0.05
    field: Annotated[float, Field(ge=0, le=10)] = 0.05
    blur: Annotated[float, Field(ge=0, le=64)] = 0.8
    noise: Annotated[float, Field(ge=0, le=10)] = 0.02
    background: Annotated[float, Field(ge=0, le=1)] = 0.02

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Change images (N, 1, *spatial) within [0, 1]; the result is within [0, 1], too."""
        ndim, device = images.ndim - 2, images.device
        one = (len(images), *([1] * (ndim + 1)))

        def uniform() -> Tensor:
            return draws.uniform().view(one).to(device)

        body = (images > self.background).to(images.dtype)
        curve = increasing_curves(draws).to(device)
        mixed = torch.lerp(images, through(curve, images), self.remap * uniform())
        # Any share of the widest blur is a blur, too, and needs no kernel of its own.
        share = (2 * uniform() - 1).clamp_min(0)
        mixed = torch.lerp(mixed, gaussian_smooth(mixed, self.blur), share)
        noise = draws.normal(*images.shape[1:]).to(device)
        mixed = mixed + body * (self.offset * (2 * uniform() - 1) + self.noise * uniform() * noise)
        control = draws.normal(1, *([_CONTROL] * ndim)).to(device)
        kind = "bilinear" if ndim == 2 else "trilinear"
        smooth = functional.interpolate(
            control, size=images.shape[2:], mode=kind, align_corners=True
        )
        return (mixed * (1 + self.field * smooth)).clamp(0, 1)


def increasing_curves(draws: Draws) -> Tensor:
    """A random increasing curve for each sample: (N, KNOTS + 1) values from 0 to 1."""
    rises = _FLATTEST + (1 - _FLATTEST) * draws.uniform(KNOTS)
    curve = functional.pad(rises.cumsum(1), (1, 0))
    return curve / curve[:, -1:]


def through(curve: Tensor, images: Tensor) -> Tensor:
    """The piecewise linear curve of each image, (N, knots + 1), applied to it.

    Args:
        curve: values at equally spaced grey levels from 0 to 1.
        images: (N, 1, *spatial) within [0, 1].
    """
    pieces = curve.shape[1] - 1
    level = images.flatten(1) * pieces
    below = level.floor().clamp(0, pieces - 1)
    index = below.long()
    return torch.lerp(curve.gather(1, index), curve.gather(1, index + 1), level - below).view_as(
        images
    )
