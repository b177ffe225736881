"""The interface that every structure map has."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class StructureMap(nn.Module):
    """A fixed (untrained) map from an image to its structure channels.

    Attributes:
        ndim: spatial axes of the images it takes, 2 or 3.
        channels: channels of the map it gives, each within [0, 1].
    """

    channels: int

    def __init__(self, ndim: int) -> None:
        super().__init__()
        if ndim not in (2, 3):
            raise ValueError(f"a structure map is for images of 2 or 3 axes; got ndim={ndim}")
        self.ndim = ndim

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """The structure of ``image``.

        Args:
            image: (N, 1, *spatial), floating point, within [-1, 1].

        Returns:
            (N, channels, *spatial), the image's dtype, within [0, 1].

        Raises:
            ValueError: the image has another number of axes or channels.
            TypeError: the image is not floating point.
        """
        if image.ndim != self.ndim + 2 or image.shape[1] != 1:
            raise ValueError(
                f"expected an image of shape (N, 1, *spatial) with {self.ndim} spatial axes; "
                f"got {tuple(image.shape)}"
            )
        if not image.is_floating_point():
            raise TypeError(f"expected a floating-point image; got {image.dtype}")
        return self.compute(image)

    def compute(self, image: Tensor) -> Tensor:
        """The map itself, on an image that ``forward`` has checked."""
        raise NotImplementedError


def shift(image: Tensor, offset: tuple[int, ...]) -> Tensor:
    """``image`` sampled at p + offset, its edge repeated outside.

    Args:
        image: (N, C, *spatial).
        offset: voxels along each spatial axis.
    """
    for axis, step in enumerate(offset, start=2):
        if step:
            size = image.shape[axis]
            index = torch.arange(step, size + step, device=image.device).clamp_(0, size - 1)
            image = image.index_select(axis, index)
    return image


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian smoothing, edge repeated, kernel cut at three sigma.

    Args:
        image: (N, C, *spatial).
        sigma: standard deviation in voxels; 0 returns the image.
    """
    if sigma == 0:
        return image
    radius = max(1, round(3 * sigma))
    weights = [math.exp(-0.5 * (step / sigma) ** 2) for step in range(-radius, radius + 1)]
    total = sum(weights)
    for axis in range(2, image.ndim):
        size = image.shape[axis]
        index = torch.arange(-radius, size + radius, device=image.device).clamp_(0, size - 1)
        padded = image.index_select(axis, index)
        # Sums of shifted views: thirty times a convolution with so small a kernel on a CPU.
        image = torch.zeros_like(image)
        for start, weight in enumerate(weights):
            image.add_(padded.narrow(axis, start, size), alpha=weight / total)
    return image
