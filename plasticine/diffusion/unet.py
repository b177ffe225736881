"""A U-Net in two or three dimensions, conditioned on the diffusion step."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

_CONVOLUTION: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}


def step_embedding(k: Tensor, features: int) -> Tensor:
    """Sines and cosines of the diffusion step (Vaswani et al., 2017): (N, features) float32."""
    half = features // 2
    frequency = torch.exp(
        -math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=k.device) / half
    )
    angle = k.float()[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], 1)


def space_to_channels(image: Tensor, factor: int) -> Tensor:
    """(N, C, *spatial) to (N, C·factorᵈ, *spatial / factor): each cell becomes channels."""
    ndim = image.ndim - 2
    shape = [n // factor for n in image.shape[2:]]
    split = image.reshape(*image.shape[:2], *itertools.chain(*((n, factor) for n in shape)))
    order = [0, 1, *range(3, 3 + 2 * ndim, 2), *range(2, 2 + 2 * ndim, 2)]
    return split.permute(order).reshape(image.shape[0], -1, *shape)


def channels_to_space(image: Tensor, factor: int) -> Tensor:
    """The inverse of ``space_to_channels``."""
    ndim = image.ndim - 2
    shape = image.shape[2:]
    split = image.reshape(image.shape[0], -1, *([factor] * ndim), *shape)
    order = [0, 1, *itertools.chain(*((2 + ndim + i, 2 + i) for i in range(ndim)))]
    return split.permute(order).reshape(image.shape[0], -1, *(n * factor for n in shape))


class ResidualBlock(nn.Module):
    """Two normalised convolutions; the step embedding scales and shifts between them."""

    def __init__(self, ndim: int, in_channels: int, out_channels: int, embedding: int) -> None:
        super().__init__()
        convolution = _CONVOLUTION[ndim]
        self.norm1 = nn.GroupNorm(math.gcd(8, in_channels), in_channels)
        self.conv1 = convolution(in_channels, out_channels, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * out_channels)
        self.norm2 = nn.GroupNorm(math.gcd(8, out_channels), out_channels)
        self.conv2 = convolution(out_channels, out_channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        self.skip: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.skip = convolution(in_channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (N, in_channels, *spatial), embedding (N, features): (N, out_channels, *spatial)."""
        hidden = self.conv1(functional.silu(self.norm1(x)))
        modulation = self.modulation(embedding).view(len(x), -1, *([1] * (x.ndim - 2)))
        scale, offset = modulation.chunk(2, dim=1)
        hidden = self.norm2(hidden) * (1 + scale) + offset
        return self.skip(x) + self.conv2(functional.silu(hidden))


class UNet(nn.Module):
    """Residual U-Net: image and condition in, an image of the same size out.

    Any spatial size is taken: it is padded at its end by repeating the edge up to a
    multiple of ``patch_size``·2^(levels−1), and the result is cut back.

    Args:
        ndim: spatial axes, 2 or 3.
        in_channels: image and condition together.
        out_channels: channels of the result.
        channels: width at each level, finest first.
        blocks: residual blocks a level, on the way down; one more on the way up.
        patch_size: voxels along each axis that are folded into channels before the first
            level (1: none). 2 costs a quarter of the arithmetic in 2D.
    """

    def __init__(
        self,
        ndim: int,
        in_channels: int,
        out_channels: int = 1,
        channels: tuple[int, ...] = (64, 96, 128, 128),
        blocks: int = 2,
        patch_size: int = 1,
    ) -> None:
        super().__init__()
        if ndim not in _CONVOLUTION:
            raise ValueError(f"a U-Net has 2 or 3 spatial axes; got ndim={ndim}")
        convolution = _CONVOLUTION[ndim]
        cell = patch_size**ndim
        embedding = 4 * channels[0]
        self.ndim, self.in_channels, self.patch_size = ndim, in_channels, patch_size
        self.channels = tuple(channels)
        self.multiple = patch_size * 2 ** (len(channels) - 1)
        self.frequencies = channels[0]
        self.embed = nn.Sequential(
            nn.Linear(channels[0], embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU()
        )
        self.first = convolution(in_channels * cell, channels[0], 3, padding=1)

        self.down = nn.ModuleList()
        self.reduce = nn.ModuleList()
        kept = [channels[0]]
        width = channels[0]
        for level, out in enumerate(channels):
            for _ in range(blocks):
                self.down.append(ResidualBlock(ndim, width, out, embedding))
                width = out
                kept.append(width)
            if level < len(channels) - 1:
                self.reduce.append(convolution(width, width, 3, stride=2, padding=1))
                kept.append(width)
        self.middle = nn.ModuleList(ResidualBlock(ndim, width, width, embedding) for _ in range(2))
        self.up = nn.ModuleList()
        self.enlarge = nn.ModuleList()
        for level, out in reversed(list(enumerate(channels))):
            for _ in range(blocks + 1):
                self.up.append(ResidualBlock(ndim, width + kept.pop(), out, embedding))
                width = out
            if level > 0:
                self.enlarge.append(convolution(width, width, 3, padding=1))
        self.blocks = blocks
        self.norm = nn.GroupNorm(math.gcd(8, width), width)
        self.last = convolution(width, out_channels * cell, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, k: Tensor) -> Tensor:
        """The network's output for ``x`` at diffusion step ``k``.

        Args:
            x: (N, in_channels, *spatial), floating point.
            k: (N,) diffusion step.

        Returns:
            (N, out_channels, *spatial).

        Raises:
            ValueError: x has another number of axes or channels.
        """
        if x.ndim != self.ndim + 2 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"expected (N, {self.in_channels}, *spatial) with {self.ndim} spatial axes; "
                f"got {tuple(x.shape)}"
            )
        size = x.shape[2:]
        surplus = [-n % self.multiple for n in size]
        if any(surplus):
            padding = list(itertools.chain(*((0, extra) for extra in reversed(surplus))))
            x = functional.pad(x, padding, mode="replicate")
        embedding = self.embed(step_embedding(k, self.frequencies).to(x.dtype))
        out = channels_to_space(
            self._network(space_to_channels(x, self.patch_size), embedding), self.patch_size
        )
        given = (slice(None), slice(None), *(slice(n) for n in size))
        return out[given]

    def _network(self, x: Tensor, embedding: Tensor) -> Tensor:
        x = self.first(x)
        kept = [x]
        for index, block in enumerate(self.down):
            x = block(x, embedding)
            kept.append(x)
            level, position = divmod(index, self.blocks)
            if position == self.blocks - 1 and level < len(self.reduce):
                x = self.reduce[level](x)
                kept.append(x)
        for block in self.middle:
            x = block(x, embedding)
        for index, block in enumerate(self.up):
            x = block(torch.cat([x, kept.pop()], 1), embedding)
            level, position = divmod(index, self.blocks + 1)
            if position == self.blocks and level < len(self.enlarge):
                x = self.enlarge[level](functional.interpolate(x, scale_factor=2.0))
        return self.last(functional.silu(self.norm(x)))


class ImageUNet(nn.Module):
    """A U-Net from image to image, without a diffusion step.

    Args:
        ndim, in_channels, out_channels, channels, blocks, patch_size: as ``UNet`` documents.
    """

    def __init__(
        self,
        ndim: int,
        in_channels: int,
        out_channels: int = 1,
        channels: tuple[int, ...] = (32, 48, 64, 64),
        blocks: int = 1,
        patch_size: int = 1,
    ) -> None:
        super().__init__()
        self.network = UNet(ndim, in_channels, out_channels, channels, blocks, patch_size)

    def forward(self, image: Tensor) -> Tensor:
        """(N, in_channels, *spatial) to float32 (N, out_channels, *spatial), not clamped."""
        step = torch.zeros(len(image), dtype=torch.long, device=image.device)
        return self.network(image, step).float()
