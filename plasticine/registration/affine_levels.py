"""Images at coarser levels, whose voxels have a size in millimetres, and what fills them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from plasticine.nn.body import exterior
from plasticine.nn.resampling import sample_affinely

_SMOOTHING = 0.7
"""Standard deviation of the smoothing in voxels of the level that it is for. Less, and what linear
interpolation smooths between voxels shows: mutual information draws the map half a voxel off."""
_TAILS = 0.005
"""Of the values at either end, the part that may be outliers."""
_MOST_SORTED = 2**17
"""Of so many voxels, spread over the image, the quantiles are taken."""


@dataclass(frozen=True)
class PlacedImage:
    """An image, how much each voxel of it counts, and where it lies.

    Attributes:
        image: (1, C, *spatial), floating point.
        weight: (1, 1, *spatial) from 0 to 1, of the image's dtype; None where all count.
        affine: (d + 1, d + 1) float64 on the CPU, voxel index to millimetres.
    """

    image: Tensor
    weight: Tensor | None
    affine: Tensor

    @property
    def size(self) -> torch.Size:
        """The spatial size."""
        return self.image.shape[2:]

    @property
    def ndim(self) -> int:
        """Spatial axes."""
        return self.image.ndim - 2

    @property
    def spacing(self) -> Tensor:
        """Millimetres from voxel to voxel along each axis, (d,) float64."""
        return torch.linalg.vector_norm(self.affine[:-1, :-1], dim=0)

    @property
    def centre(self) -> Tensor:
        """The middle of the image in millimetres, (d,) float64."""
        middle = (torch.tensor(self.size, dtype=torch.float64) - 1) / 2
        return self.affine[:-1, :-1] @ middle + self.affine[:-1, -1]

    @property
    def corners(self) -> Tensor:
        """The outermost voxels in millimetres, homogeneous, (d + 1, 2 ** d) float64."""
        ends = [(0.0, float(n - 1)) for n in self.size]
        index = [(*corner, 1.0) for corner in itertools.product(*ends)]
        return self.affine @ torch.tensor(index, dtype=torch.float64).T

    @property
    def volume(self) -> float:
        """Cubic (in 2D, square) millimetres of what counts."""
        voxels = self.size.numel() if self.weight is None else float(self.weight.sum())
        return voxels * abs(float(torch.linalg.det(self.affine)))

    def cropped(self) -> PlacedImage:
        """The smallest box that holds all that counts; itself without weights."""
        if self.weight is None:
            return self
        found = (self.weight[0, 0] != 0).nonzero().cpu()
        least, greatest = found.amin(0), found.amax(0) + 1
        box = [slice(int(a), int(b)) for a, b in zip(least, greatest, strict=True)]
        index = (slice(None), slice(None), *box)
        shift = torch.eye(self.ndim + 1, dtype=torch.float64)
        shift[:-1, -1] = least.double()
        image, weight = self.image[index], self.weight[index]
        return PlacedImage(image.contiguous(), weight.contiguous(), self.affine @ shift)

    def at(self, spacing: float) -> PlacedImage:
        """The image smoothed, with voxels of ``spacing`` millimetres along its own axes.

        An axis whose voxels are longer is left as it is.
        """
        image, weight = self.image, self.weight
        step = torch.eye(self.ndim + 1, dtype=torch.float64)
        for axis, (voxels, length) in enumerate(zip(self.size, self.spacing, strict=True)):
            ratio = spacing / float(length)
            if ratio < 0.999:
                continue
            ratio = max(ratio, 1.0)
            count = int((voxels - 1) / ratio) + 1
            first = (voxels - 1 - ratio * (count - 1)) / 2
            step[axis, axis], step[axis, -1] = ratio, first
            weights = _smoothing(voxels, count, ratio, first).to(image)
            image = _along(image, axis + 2, weights)
            weight = None if weight is None else _along(weight, axis + 2, weights)
        if weight is not None and float(weight.max()) >= 0.5:
            # What counts less than half of a voxel has values from beyond the mask.
            weight = weight * (weight >= 0.5)
        return PlacedImage(image.contiguous(), weight, self.affine @ step)

    def value_range(self) -> Tensor:
        """The values that histograms tell apart, (C, 2): without the outermost 0.5 %."""
        values = self.image[0].flatten(1)
        if self.weight is not None:
            values = values[:, self.weight[0, 0].flatten() > 0]
        values = values[:, :: max(1, values.shape[1] // _MOST_SORTED)].float()
        ends = torch.tensor([_TAILS, 1 - _TAILS], dtype=torch.float32, device=values.device)
        found = torch.quantile(values, ends, dim=1).T
        whole = torch.stack([values.amin(1), values.amax(1)], 1)
        # An image that is flat but for a few voxels keeps them.
        flat = found[:, :1] == found[:, 1:]
        return torch.where(flat, whole, found).to(self.image.dtype)

    def foreground(self) -> Tensor:
        """The body: what is brighter than the background, holes filled, (d-dimensional) bool."""
        image = self.image.mean(1, keepdim=True)
        inside = ~exterior(image, _otsu(image))[0, 0]
        if self.weight is not None:
            inside = inside & (self.weight[0, 0] > 0)
        return inside

    def focused(self) -> PlacedImage:
        """Only the body and its outline count; itself where it has weights already.

        The air around would otherwise be most of what a metric sees: where images agree about air,
        and cut the body differently, it draws the map to the cut.
        """
        if self.weight is not None:
            return self
        # Found on half of the resolution, which takes an eighth of the time.
        coarse = self.at(2 * float(self.spacing.min()))
        body = coarse.foreground()[None, None].to(self.image)
        if not body.any():
            return self
        affine = (torch.linalg.inv(coarse.affine) @ self.affine)[None, :-1].to(self.image)
        pool = functional.max_pool2d if self.ndim == 2 else functional.max_pool3d
        weight = pool((sample_affinely(body, affine, self.size) >= 0.5).to(body), 3, 1, 1)
        return PlacedImage(self.image, weight, self.affine)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Centre, (d,), and covariance, (d, d), of the foreground: millimetres, float64."""
        index = self.foreground().nonzero().cpu().double()
        if not len(index):
            return self.centre, torch.zeros(self.ndim, self.ndim, dtype=torch.float64)
        places = index @ self.affine[:-1, :-1].T + self.affine[:-1, -1]
        centre = places.mean(0)
        return centre, (places - centre).T @ (places - centre) / len(places)


def level_spacings(image: PlacedImage, most: int, least: int) -> list[float]:
    """Spacings in millimetres, coarse to fine, each half of the one before.

    Args:
        image: the fixed image.
        most: voxels of the finest level, which is no finer than the image.
        least: voxels of the coarsest level, or not much less than twice as many.
    """
    finest = float(image.spacing.min())
    while _voxels(image, finest) > most:
        finest *= 1.02
    spacings = [finest]
    while _voxels(image, 2 * spacings[0]) >= least:
        spacings.insert(0, 2 * spacings[0])
    return spacings


def _voxels(image: PlacedImage, spacing: float) -> float:
    """How many voxels a level has, of what counts."""
    lengths = zip(image.size, image.spacing.tolist(), strict=True)
    return math.prod(max(1.0, n * min(1.0, length / spacing)) for n, length in lengths)


def _smoothing(voxels: int, count: int, ratio: float, first: float) -> Tensor:
    """The Gaussian weights of an axis's voxels in those of a level, (count, voxels) float64."""
    sigma = _SMOOTHING * ratio
    places = first + ratio * torch.arange(count, dtype=torch.float64)
    distance = (torch.arange(voxels, dtype=torch.float64) - places[:, None]).abs()
    weights = torch.exp(-0.5 * (distance / sigma) ** 2) * (distance <= 4 * sigma)
    return weights / weights.sum(1, keepdim=True)


def _along(image: Tensor, axis: int, weights: Tensor) -> Tensor:
    return torch.tensordot(image, weights, dims=([axis], [1])).movedim(-1, axis)


def _otsu(image: Tensor, bins: int = 128) -> float:
    """The threshold that leaves the least variance on its two sides (Otsu 1979)."""
    least, greatest = float(image.min()), float(image.max())
    if not least < greatest:
        return least
    histogram = torch.histc(image.float(), bins, least, greatest).double().cpu()
    edges = torch.linspace(least, greatest, bins + 1, dtype=torch.float64)
    below = histogram.cumsum(0)
    sums = (histogram * (edges[1:] + edges[:-1]) / 2).cumsum(0)
    share = below / below[-1]
    between = (sums[-1] * share - sums) ** 2 / (share * (1 - share)).clamp_min(1e-12)
    return float(edges[1 + int(between[:-1].argmax())])


def homogeneous(linear: Tensor, translation: Tensor | Sequence[float]) -> Tensor:
    """(d, d) and (d,) to (d + 1, d + 1) float64."""
    ndim = len(linear)
    matrix = torch.eye(ndim + 1, dtype=torch.float64)
    matrix[:ndim, :ndim] = linear
    matrix[:ndim, ndim] = torch.as_tensor(translation, dtype=torch.float64)
    return matrix
