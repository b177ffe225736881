"""``mind_distance`` in Triton, forward and backward: passes over some planes of an image.

The distances of the patches, of all pairs of them, are held in the caller's scratch for as many
planes as it has room for. Sums are taken by blocks and then in one order, and gradients gather:
the same bits every time. The mathematics is that of csrc/mind_distance.

:func:`mind_distance_forward` and :func:`mind_distance_backward` trust their input; the checks are
those of the operator ``plasticine.mind_distance``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from .launch import Field, accumulator, accumulator_type
from .mind_passes import (
    across_kernel,
    compare_kernel,
    gather_kernel,
    pull_kernel,
    smooth_kernel,
    spread_kernel,
    variance_kernel,
)

# Values of a program, and voxels of one that has all pairs of them.
_BLOCK, _VOXELS = 256, 16
_PAIRS = {2: 8, 3: 18}
# A variance is at least so much of the image's mean.
_NOISE = 1e-3


class Planes(NamedTuple):
    """Planes of an image: the first, and how many."""

    first: int
    count: int

    def wider(self, by: int, most: int) -> Planes:
        """The same with ``by`` more on either side, of ``most`` that there are."""
        first = max(self.first - by, 0)
        return Planes(first, min(self.first + self.count + by, most) - first)


def mind_distance_forward(
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    out: Tensor,
    scratch: Tensor,
    dilations: Sequence[int],
    sigma: float,
    kind: str,
    epsilon: float,
) -> None:
    """The distance of two images' descriptors.

    Args:
        x: ``(N, C, *spatial)``, 2D or 3D, float32, float64, float16 or bfloat16; any strides.
        y: of the shape and dtype of ``x``.
        mask: ``(N, 1, *spatial)`` in the dtype of ``out``, or None.
        out: ``(N,)``, float64 for float64 images, else float32; overwritten.
        scratch: float64, contiguous; plasticine/ops/mind_distance.py says how much.
        dilations: as for the operator, as are the others.
        sigma: of the patches.
        kind: "charbonnier" or "squared".
        epsilon: of the first.
    """
    out.zero_()
    if not x.numel():
        return
    call = _Call(x, y, mask, scratch, dilations, sigma, kind, epsilon)
    for n, c in call.images():
        counted = call.image(n, c)
        for i in range(len(dilations)):
            for own in call.slabs(call.radius):
                call.find_distances(i, own)
                out[n] += call.compare(i, own, own, None).sum() * counted


def mind_distance_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    grad_x: Tensor | None,
    grad_y: Tensor | None,
    scratch: Tensor,
    dilations: Sequence[int],
    sigma: float,
    kind: str,
    epsilon: float,
) -> None:
    """The gradients of :func:`mind_distance_forward`.

    Args:
        grad: ``(N,)``, the gradient of the result.
        x: as for :func:`mind_distance_forward`, as are all others but these.
        y: see there.
        mask: see there.
        grad_x: overwritten, contiguous; None where it is not wanted.
        grad_y: likewise.
        scratch: see there.
        dilations: see there.
        sigma: see there.
        kind: see there.
        epsilon: see there.
    """
    if not x.numel():
        return
    call = _Call(x, y, mask, scratch, dilations, sigma, kind, epsilon)
    results = [grad_x, grad_y]
    for n, c in call.images():
        scale = call.image(n, c) * grad[n]
        gradients = [call.gradient(which, result, n, c) for which, result in enumerate(results)]
        for i, dilation in enumerate(dilations):
            floors = scale.new_zeros(2, dtype=torch.float64)
            for own in call.slabs(dilation + 2 * call.radius):
                compared = own.wider(dilation + call.radius, call.size[0])
                call.find_distances(i, compared)
                floors += call.compare(i, compared, own, scale).view(-1, 2).sum(0)
                for which, gradient in enumerate(gradients):
                    if gradient is not None:
                        call.pull_back(which, i, compared, own, gradient)
            for which, gradient in enumerate(gradients):
                if gradient is not None:
                    call.pull_floor(which, i, floors[which], gradient)
        for result, gradient in zip(results, gradients, strict=True):
            if result is not None and gradient is not None and result.dtype != gradient.dtype:
                result[n, c].copy_(gradient)


class _Call:
    """A call: its scratch, and the passes over one of its images at a time.

    Attributes:
        radius: of a patch.
        size: of the images (z, y, x). In 2D the first axis is z, and y has one voxel.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        mask: Tensor | None,
        scratch: Tensor,
        dilations: Sequence[int],
        sigma: float,
        kind: str,
        epsilon: float,
    ) -> None:
        self._tensors, self._mask, self._dilations = (x, y), mask, dilations
        self._compared = {
            "SQUARED": kind == "squared",
            "EPSILON": epsilon,
            "MASKED": mask is not None,
        }
        self._ndim = x.dim() - 2
        self._precision = accumulator(x)
        self._constants = {
            "NDIM": self._ndim,
            "PAIRS": _PAIRS[self._ndim],
            "ACC": accumulator_type(x),
        }
        self.radius = max(1, round(3 * sigma))
        self.size = _spatial(x[0, 0]).shape
        steps = torch.arange(-self.radius, self.radius + 1, device=x.device, dtype=torch.float64)
        weights = (-0.5 * (steps / sigma) ** 2).exp()
        weights = weights / weights.sum()
        patches = torch.cat([_patches(weights, steps, n) for n in self.size])
        self._weights, self._patches, self._shares = (
            each.to(self._precision) for each in (weights, patches, patches.sum(1))
        )
        self._voxels = self._pairs * x[0, 0].numel()
        plane = self._pairs * self.size[1] * self.size[2]
        values = scratch.view(self._precision)
        self._halves: list[Tensor] = []
        if x.element_size() == 2:
            voxels = x[0, 0].numel()
            self._halves = [values[:voxels].view_as(x[0, 0]), values[voxels:][:voxels]]
            self._halves[1] = self._halves[1].view_as(x[0, 0])
            values = values[2 * voxels :]
        self._planes = min(self.size[0], values.numel() // (3 * plane))
        self._buffers = values[: 3 * self._planes * plane].view(3, -1)

    @property
    def _pairs(self) -> int:
        return _PAIRS[self._ndim]

    def images(self) -> Iterator[tuple[int, int]]:
        """The samples and channels."""
        return ((n, c) for n in range(len(self._tensors[0])) for c in range(self._channels))

    @property
    def _channels(self) -> int:
        return self._tensors[0].shape[1]

    def image(self, n: int, c: int) -> Tensor:
        """Goes on with this image; by what a sum over its voxels becomes its part of a mean."""
        self._fields = [_field(_spatial(x[n, c])) for x in self._tensors]
        everything = Planes(0, self.size[0])
        self._mask_field = self._fields[0]  # not read where there is no mask
        if self._mask is None:
            voxels = self._weights.new_tensor(self._voxels / self._pairs, dtype=torch.float64)
        else:
            self._mask_field = _field(_spatial(self._mask[n, 0]))
            voxels = self._mask[n, 0].sum(dtype=torch.float64)
        share = 1 / self._voxels
        floors = []
        for dilation in self._dilations:
            for field in self._fields:
                partial = self._partial(everything)
                arguments = (field, everything, dilation, self._shares, partial)
                self._launch(variance_kernel, everything, *arguments)
                floors.append(_NOISE * share * partial.sum())
        least = torch.finfo(self._precision).tiny
        raw = torch.stack(floors).view(-1, 2)
        self._floors = torch.where(raw < least, least, raw)
        self._of_floors = torch.where(raw < least, 0, torch.full_like(raw, _NOISE * share))
        terms = self._channels * self._pairs * len(self._dilations)
        return torch.where(voxels > 0, 1 / (torch.where(voxels > 0, voxels, 1) * terms), 0)

    def slabs(self, halo: int) -> Iterator[Planes]:
        """All planes, in parts that fit in the scratch with a halo."""
        step = self._planes - (2 * halo if self._planes < self.size[0] else 0)
        for first in range(0, self.size[0], step):
            yield Planes(first, min(step, self.size[0] - first))

    def find_distances(self, i: int, planes: Planes) -> None:
        """Of x in the first and of y in the second buffer."""
        wide = planes.wider(self.radius, self.size[0])
        weights = self._weights, self.radius
        for which, field in enumerate(self._fields):
            arguments = (field, wide, self._dilations[i], *weights, self._buffers[2])
            self._launch(across_kernel, wide, *arguments)
            buffers = self._buffers[2], self._buffers[which]
            arguments = (field, planes, wide, *weights, *buffers)
            self._launch(smooth_kernel, planes, *arguments)

    def compare(self, i: int, planes: Planes, own: Planes, scale: Tensor | None) -> Tensor:
        """What the blocks sum; with a scale the gradients take the distances' places."""
        backward = scale is not None
        partial = self._partial(planes, 2 if backward else 1)
        arguments = (
            *(self._fields[0], planes, own, self._mask_field, self._buffers[0], self._buffers[1]),
            *(self._floors[i], self._floors if scale is None else scale, partial),
        )
        self._launch(compare_kernel, planes, *arguments, BACKWARD=backward, **self._compared)
        return partial

    def gradient(self, which: int, result: Tensor | None, n: int, c: int) -> Tensor | None:
        """Where the gradient of the image is summed."""
        if result is None:
            return None
        return self._halves[which] if self._halves else result[n, c]

    def pull_back(
        self, which: int, i: int, compared: Planes, own: Planes, gradient: Tensor
    ) -> None:
        """What the gradients in the distances' places make of the image's."""
        dilation, field = self._dilations[i], self._fields[which]
        pulled = own.wider(dilation, self.size[0])
        patches = self._patches, self.radius
        buffers = self._buffers[which], self._buffers[2]
        arguments = (field, pulled, compared, *patches, *buffers)
        self._launch(spread_kernel, pulled, *arguments)
        arguments = (field, pulled, dilation, *patches, self._buffers[2], self._buffers[which])
        self._launch(pull_kernel, pulled, *arguments)
        arguments = (field, own, pulled, dilation, self._buffers[which], self._floors, gradient)
        self._launch(gather_kernel, own, *arguments, ADD=i > 0, FLOOR=False)

    def pull_floor(self, which: int, i: int, grad: Tensor, gradient: Tensor) -> None:
        """Adds what the floor makes of the gradient, which is a share of a mean."""
        everything = Planes(0, self.size[0])
        scale = grad * self._of_floors[i, which]
        arguments = (everything, everything, self._dilations[i], self._shares, scale, gradient)
        self._launch(
            gather_kernel, everything, self._fields[which], *arguments, ADD=True, FLOOR=True
        )

    def _partial(self, planes: Planes, each: int = 1) -> Tensor:
        blocks = triton.cdiv(planes.count * self.size[1] * self.size[2], _VOXELS)
        return self._weights.new_empty(each * blocks, dtype=torch.float64)

    def _launch(self, kernel: Any, planes: Planes, *arguments: Any, **constants: Any) -> None:
        """Over the voxels of some planes; over the values of all pairs, for each pair alone."""
        is_alone = kernel in (across_kernel, smooth_kernel, spread_kernel, pull_kernel)
        pairs, block = (self._pairs, _BLOCK) if is_alone else (1, _VOXELS)
        blocks = triton.cdiv(pairs * planes.count * self.size[1] * self.size[2], block)
        with torch.cuda.device_of(self._weights):
            kernel[(blocks,)](*arguments, BLOCK=block, **self._constants, **constants)


def _spatial(x: Tensor) -> Tensor:
    """An image (z, y, x); of 2D, its first axis is z."""
    return x if x.dim() == 3 else x.unsqueeze(1)


def _field(x: Tensor) -> Field:
    return Field(x, (0, 0, *x.stride()), tuple(x.shape))


def _patches(weights: Tensor, steps: Tensor, length: int) -> Tensor:
    """How much each value on an axis counts in the patches these steps away; an end for all beyond.

    Returns:
        ``(length, steps)``.
    """
    places = torch.arange(length, device=weights.device)[:, None, None]
    back, offsets = -steps[:, None], steps
    counted = (offsets == back) | ((places == 0) & (offsets < back))
    counted = counted | ((places == length - 1) & (offsets > back))
    at = places[..., 0] + steps
    inside = (at >= 0) & (at < length)
    return torch.where(inside, torch.where(counted, weights, 0).sum(2), 0)
