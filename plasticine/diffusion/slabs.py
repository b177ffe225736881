"""A large image denoised in overlapping slabs, which take turns in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from plasticine.diffusion.denoiser import Denoiser

Run = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""(noisy, condition) of a slab to its clean image and its noise."""


def check_slabs(size: int, overlap: int, multiple: int) -> None:
    """Refuses slabs that do not suit a denoiser.

    Args:
        size: voxels of a slab along the axis that is cut.
        overlap: voxels that neighbouring slabs share, at least.
        multiple: voxels of the denoiser's coarsest cell.

    Raises:
        ValueError: the size is no multiple of a cell, or the overlap leaves a slab no advance.
    """
    if size < 1 or size % multiple:
        raise ValueError(
            f"a slab's size must be a multiple of {multiple}, the denoiser's coarsest "
            f"cell; got {size}"
        )
    if not 0 <= overlap <= size - multiple:
        raise ValueError(
            f"slabs of {size} voxels can overlap by 0 … {size - multiple}; got {overlap}"
        )


class SlabDenoiser:
    """Predicts as a denoiser does, slab by slab, so that memory is bounded by a slab's size.

    At every diffusion step the predictions of overlapping slabs are blended with weights that
    rise linearly over the middle half of the overlap and add up to one everywhere (the fusion
    of Bar-Tal et al., "MultiDiffusion", 2023). All slabs are parts of one noisy image, so they
    agree on what they share at every step, and the result has no seams. It is not the bits of a
    run on the whole: the network's normalisation sees the slab's statistics in place of the
    whole's, and farther into a slab than a quarter of the overlap, the effect of the padding
    at its end is faint but not nothing.

    Slabs cut the longest spatial axis. They start at multiples of the network's coarsest cell,
    where its strided convolutions have the same grid as on the whole.

    Args:
        denoiser: the noise predictor.
        size: voxels of a slab along the axis that is cut, a multiple of the denoiser's
            ``network.multiple``. An image that is not longer is denoised whole.
        overlap: voxels that neighbouring slabs share, at least.

    Attributes:
        schedule: the denoiser's.

    Raises:
        ValueError: the size is not such a multiple, or the overlap leaves a slab no advance.
    """

    def __init__(self, denoiser: Denoiser, size: int, overlap: int) -> None:
        self.denoiser, self.schedule = denoiser, denoiser.schedule
        self.size, self.overlap = size, overlap
        self.multiple = denoiser.network.multiple
        check_slabs(size, overlap, self.multiple)

    def predict(self, noisy: Tensor, condition: Tensor | None, k: Tensor) -> tuple[Tensor, Tensor]:
        """As ``Denoiser.predict``."""
        return self._blended(
            lambda part, given: self.denoiser.predict(part, given, k), noisy, condition
        )

    def predict_noise(self, noisy: Tensor, condition: Tensor | None, k: Tensor) -> Tensor:
        """As ``Denoiser.predict_noise``."""
        return self.predict(noisy, condition, k)[1]

    def guided(
        self, noisy: Tensor, condition: Tensor, k: Tensor, guidance: float
    ) -> tuple[Tensor, Tensor]:
        """As ``Denoiser.guided``."""

        def run(part: Tensor, given: Tensor | None) -> tuple[Tensor, Tensor]:
            assert given is not None
            return self.denoiser.guided(part, given, k, guidance)

        return self._blended(run, noisy, condition)

    def slabs(self, length: int) -> list[tuple[int, int]]:
        """Where slabs start and stop along an axis of ``length`` voxels."""
        if length <= self.size:
            return [(0, length)]
        advance = (self.size - self.overlap) // self.multiple * self.multiple
        # The last slab is shifted back, to just reach the end.
        last = -(-(length - self.size) // self.multiple) * self.multiple
        starts = [*range(0, last, advance), last]
        return [(start, min(start + self.size, length)) for start in starts]

    def _blended(self, run: Run, noisy: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        shape = noisy.shape[2:]
        axis = 2 + max(range(len(shape)), key=shape.__getitem__)
        clean = torch.zeros_like(noisy, dtype=torch.float32)
        noise = torch.zeros_like(clean)
        slabs = self.slabs(noisy.shape[axis])
        for (start, stop), weight in zip(slabs, blending_weights(slabs), strict=True):

            def part(image: Tensor, start: int = start, stop: int = stop) -> Tensor:
                return image.narrow(axis, start, stop - start)

            along = weight.to(noisy.device).view(
                [-1 if i == axis else 1 for i in range(noisy.ndim)]
            )
            predicted = run(part(noisy), None if condition is None else part(condition))
            for total, value in zip((clean, noise), predicted, strict=True):
                part(total).add_(along * value)
        return clean, noise


def blending_weights(slabs: Sequence[tuple[int, int]]) -> list[Tensor]:
    """The weight of each slab at its own voxels: linear over overlaps, one in all.

    The outer quarters of an overlap, where a slab's own end is near, weigh nothing.

    Args:
        slabs: (start, stop) of each, in order; the first begins and the last ends the axis.

    Returns:
        For each slab (stop - start,) float32.
    """
    lines = []
    for index, (start, stop) in enumerate(slabs):
        voxel = torch.arange(start, stop, dtype=torch.float64, device="cpu")
        line = torch.ones_like(voxel)
        if index > 0:
            line = torch.minimum(line, _rise(voxel - start, slabs[index - 1][1] - start))
        if index + 1 < len(slabs):
            line = torch.minimum(line, _rise(stop - 1 - voxel, stop - slabs[index + 1][0]))
        lines.append(line)
    total = torch.zeros(slabs[-1][1], dtype=torch.float64, device="cpu")
    for (start, stop), line in zip(slabs, lines, strict=True):
        total[start:stop] += line
    return [
        (line / total[start:stop]).float() for (start, stop), line in zip(slabs, lines, strict=True)
    ]


def _rise(distance: Tensor, shared: int) -> Tensor:
    """From 0 to 1 over the middle half of ``shared`` voxels, by the distance from the end."""
    quarter = shared // 4
    return ((distance + 1 - quarter) / (shared - 2 * quarter + 1)).clamp(0, 1)
