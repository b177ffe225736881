"""The spatial transformation module: a U-Net with two stems and one decoder."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from plasticine.nn.resampling import resample
from plasticine.registration.affine import AffineHead, affine_exponential
from plasticine.registration.deformation import INVERSES, Deformation

_CONVOLUTION: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
_POOL = {2: functional.avg_pool2d, 3: functional.avg_pool3d}
_NEGATIVE_SLOPE = 0.2


class VelocityNetwork(nn.Module):
    """Predicts the deformation that carries a moving image to a fixed one, or to its domain.

    One of two stems reads the images: the pair stem reads moving, fixed and the denoiser's
    noise estimate by channels, the single stem reads moving alone, as it must when no fixed
    image exists. One decoder turns either's features into a stationary velocity field (and,
    in the faithful mode, a second field for the inverse map), one affine head into an affine
    map. The heads start at zero: an untrained network gives the identity exactly.

    Any spatial size is taken: images are padded at their end by repeating the edge up to a
    multiple of pooling x 2^(levels - 1), and the velocity is cut back.

    Args:
        ndim: spatial axes, 2 or 3.
        image_channels: channels of the moving and of the fixed image and of the noise.
        channels: width at each level, finest first; each level halves the grid.
        velocity_scale: voxels, of the pooled images, of velocity for one unit of the head's
            output.
        half_resolution: predict the velocity on every other voxel and interpolate it
            linearly between: about half the arithmetic in 2D, and a smoother field.
        pooling: voxels along each axis of the cells that images are averaged over before
            either stem sees them; 1 is none. The velocity is brought back to every voxel
            linearly and exponentiated there, so displacement and folds are those of the full
            grid. 2 costs an eighth of the arithmetic and memory in 3D.
        affine: whether there is an affine part.
        inverse_from: "negation" takes exp(-v) for the inverse, consistent by construction;
            "head" predicts a second velocity for it, as the paper draws.
        steps: squarings of the velocity's exponential.
        checkpoint: "store" or "recompute", as ``plasticine.exponential`` has it.

    Raises:
        ValueError: an argument is outside what is said above.
    """

    def __init__(
        self,
        ndim: int,
        image_channels: int = 1,
        channels: Sequence[int] = (16, 32, 32, 32),
        velocity_scale: float = 1.0,
        half_resolution: bool = True,
        pooling: int = 1,
        affine: bool = True,
        inverse_from: str = "negation",
        steps: int = 7,
        checkpoint: str = "store",
    ) -> None:
        super().__init__()
        if ndim not in _CONVOLUTION:
            raise ValueError(f"images have 2 or 3 spatial axes; got ndim={ndim}")
        if len(channels) < 2 or min(channels) < 1:
            raise ValueError(f"channels must be two or more positive widths; got {channels}")
        if image_channels < 1:
            raise ValueError(f"image_channels must be positive; got {image_channels}")
        if pooling < 1:
            raise ValueError(f"pooling must be at least 1; got {pooling}")
        if inverse_from not in INVERSES:
            raise ValueError(
                f"inverse_from must be one of {', '.join(INVERSES)}; got {inverse_from!r}"
            )
        self.ndim, self.image_channels = ndim, image_channels
        self.velocity_scale, self.half_resolution = velocity_scale, half_resolution
        self.inverse_from, self.steps, self.checkpoint = inverse_from, steps, checkpoint
        self.pooling = pooling
        self.multiple = pooling * 2 ** (len(channels) - 1)
        self.finest = int(half_resolution)
        self.pair_stem = _Stem(ndim, 3 * image_channels, channels)
        self.single_stem = _Stem(ndim, image_channels, channels)
        self.decoder = _Decoder(ndim, channels[self.finest :])
        self.affine_head = AffineHead(ndim, channels[-1]) if affine else None
        self.velocity_head = _zero_convolution(ndim, channels[self.finest])
        self.inverse_head = (
            _zero_convolution(ndim, channels[self.finest]) if inverse_from == "head" else None
        )

    def forward(
        self,
        moving: Tensor,
        fixed: Tensor | None = None,
        noise: Tensor | None = None,
        *,
        inverse: bool = True,
    ) -> Deformation:
        """The deformation of ``moving`` towards ``fixed``, or towards its domain without one.

        Args:
            moving: (N, image_channels, *spatial) within [-1, 1], of the parameters' dtype.
            fixed: like moving; with it the pair stem is used, without it the single stem.
            noise: like moving, the denoiser's noise estimate for the fixed image (zero where
                None); only with fixed.
            inverse: whether to run the second velocity head, where there is one.

        Returns:
            The deformation, in voxels of the images' grid, of the parameters' dtype (under
            autocast too).

        Raises:
            TypeError: an image is not floating point.
            ValueError: shapes do not fit, or noise is given without fixed.
        """
        self._check(moving, fixed, noise)
        size = moving.shape[2:]
        if fixed is None:
            features = self.single_stem(self._cells(moving))
        else:
            noise = torch.zeros_like(moving) if noise is None else noise
            features = self.pair_stem(self._cells(torch.cat([moving, fixed, noise], 1)))
        log_affine = affine = inverse_affine = None
        if self.affine_head is not None:
            log_affine = self.affine_head(features[-1], size)
            affine, inverse_affine = affine_exponential(log_affine, size)
        decoded = self.decoder(features[self.finest :])
        return Deformation(
            velocity=self._velocity(self.velocity_head, decoded, size),
            affine=affine,
            inverse_affine=inverse_affine,
            inverse_velocity=(
                self._velocity(self.inverse_head, decoded, size)
                if inverse and self.inverse_head is not None
                else None
            ),
            features=features[self.finest :],
            log_affine=log_affine,
            inverse_from=self.inverse_from,
            steps=self.steps,
            checkpoint=self.checkpoint,
        )

    def _check(self, moving: Tensor, fixed: Tensor | None, noise: Tensor | None) -> None:
        if moving.ndim != self.ndim + 2 or moving.shape[1] != self.image_channels:
            raise ValueError(
                f"expected a moving image (N, {self.image_channels}, *spatial) with {self.ndim} "
                f"spatial axes; got {tuple(moving.shape)}"
            )
        if noise is not None and fixed is None:
            raise ValueError("noise is the estimate for a fixed image; got noise without fixed")
        for name, image in (("moving", moving), ("fixed", fixed), ("noise", noise)):
            if image is None:
                continue
            if not image.is_floating_point():
                raise TypeError(f"{name} must be floating point; got {image.dtype}")
            if image.shape != moving.shape:
                raise ValueError(
                    f"{name} must have the moving image's shape {tuple(moving.shape)}; "
                    f"got {tuple(image.shape)}"
                )

    def _cells(self, image: Tensor) -> Tensor:
        """The image padded to whole cells of the coarsest level, and pooled."""
        surplus = [-n % self.multiple for n in image.shape[2:]]
        if any(surplus):
            padding = list(itertools.chain(*((0, extra) for extra in reversed(surplus))))
            image = functional.pad(image, padding, mode="replicate")
        return image if self.pooling == 1 else _POOL[self.ndim](image, self.pooling)

    def _velocity(self, head: nn.Conv2d | nn.Conv3d, decoded: Tensor, size: torch.Size) -> Tensor:
        # Voxels, not features: autocast does not lower their precision.
        with torch.autocast(decoded.device.type, enabled=False):
            velocity = self.velocity_scale * head(decoded.to(head.weight.dtype))
        if self.half_resolution:
            velocity = _double(velocity)
        if self.pooling > 1:
            return refine_velocity(velocity, self.pooling, size)
        for axis, n in enumerate(size, start=2):
            velocity = velocity.narrow(axis, 0, n)
        return velocity.contiguous()


class _Stem(nn.Module):
    """Images to features, one tensor a level, finest first."""

    def __init__(self, ndim: int, in_channels: int, channels: Sequence[int]) -> None:
        super().__init__()
        convolution = _CONVOLUTION[ndim]
        self.first = convolution(in_channels, channels[0], 3, padding=1)
        self.reduce = nn.ModuleList(
            convolution(above, width, 3, stride=2, padding=1)
            for above, width in itertools.pairwise(channels)
        )
        self.refine = nn.ModuleList(
            convolution(width, width, 3, padding=1) for width in channels[1:]
        )

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        features = [functional.leaky_relu(self.first(image), _NEGATIVE_SLOPE)]
        for reduce, refine in zip(self.reduce, self.refine, strict=True):
            hidden = functional.leaky_relu(reduce(features[-1]), _NEGATIVE_SLOPE)
            features.append(functional.leaky_relu(refine(hidden), _NEGATIVE_SLOPE))
        return tuple(features)


class _Decoder(nn.Module):
    """Features of all levels to features of the finest."""

    def __init__(self, ndim: int, channels: Sequence[int]) -> None:
        super().__init__()
        convolution = _CONVOLUTION[ndim]
        self.merge = nn.ModuleList(
            convolution(below + width, width, 3, padding=1)
            for width, below in reversed(list(itertools.pairwise(channels)))
        )
        self.refine = convolution(channels[0], channels[0], 3, padding=1)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        x = features[-1]
        for merge, skip in zip(self.merge, reversed(features[:-1]), strict=True):
            x = torch.cat([functional.interpolate(x, scale_factor=2.0), skip], 1)
            x = functional.leaky_relu(merge(x), _NEGATIVE_SLOPE)
        return functional.leaky_relu(self.refine(x), _NEGATIVE_SLOPE)


def _zero_convolution(ndim: int, channels: int) -> nn.Conv2d | nn.Conv3d:
    head = _CONVOLUTION[ndim](channels, ndim, 3, padding=1)
    nn.init.zeros_(head.weight)
    assert head.bias is not None
    nn.init.zeros_(head.bias)
    return head


def _double(field: Tensor) -> Tensor:
    """A field on every other voxel to one on every voxel, linearly, the last voxel repeated.

    Voxel i of the coarse grid is voxel 2i of the fine one, where the convolutions of stride 2
    left it. Sums of slices rather than ``interpolate``, whose gradient is not deterministic
    on a GPU.
    """
    for axis in range(2, field.ndim):
        rest, last = field.narrow(axis, 1, field.shape[axis] - 1), field.narrow(axis, -1, 1)
        after = torch.cat([rest, last], axis)
        field = torch.stack([field, (field + after) / 2], axis + 1).flatten(axis, axis + 1)
    return field


def refine_velocity(velocity: Tensor, factor: int, size: Sequence[int]) -> Tensor:
    """A velocity of pooled images as one of the images themselves, interpolated linearly.

    The centre of cell I lies at voxel factor·I + (factor - 1) / 2. Beyond the outermost centres
    their velocity is repeated.

    Args:
        velocity: (N, d, *cells), in cells.
        factor: voxels of a cell along each axis.
        size: spatial size of the images, at most that of all cells.

    Returns:
        (N, d, *size), in voxels.
    """
    offset = -(factor - 1) / (2 * factor)
    return factor * resample(velocity, size, [1 / factor] * len(size), offset)
