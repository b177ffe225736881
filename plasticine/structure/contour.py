"""Contours with a clipped distance map: the paper's "basic contours"."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticine.ops.gaussian_smooth import gaussian_smooth
from plasticine.reference.shift import shift
from plasticine.structure.structure_map import StructureMap


class Contour(StructureMap):
    """Edge strength at several scales, and how far the nearest contour is.

    Edge strength is the gradient magnitude divided by its local mean (plus a tenth of the
    image's), g / (g + mean), so that a faint and a strong edge of two modalities look
    alike. The last channel is the Euclidean distance to the nearest voxel whose finest edge
    strength exceeds ``threshold``, clipped at ``reach`` voxels and divided by it.

    Args:
        ndim: 2 or 3.
        scales: Gaussian widths in voxels, one channel each, finest first.
        threshold: edge strength, within (0, 1), from which a voxel is a contour.
        reach: voxels at which the distance is clipped.
    """

    def __init__(
        self,
        ndim: int,
        scales: tuple[float, ...] = (0.7, 1.5),
        threshold: float = 0.6,
        reach: int = 8,
    ) -> None:
        super().__init__(ndim)
        if not scales or min(scales) <= 0:
            raise ValueError(f"scales must be positive; got {scales}")
        if not 0 < threshold < 1:
            raise ValueError(f"threshold must lie within (0, 1); got {threshold}")
        if reach < 1:
            raise ValueError(f"reach must be at least 1 voxel; got {reach}")
        self.scales = tuple(float(scale) for scale in scales)
        self.threshold = float(threshold)
        self.reach = int(reach)
        self.channels = len(self.scales) + 1

    def compute(self, image: Tensor) -> Tensor:
        """The map of an image that ``forward`` has checked."""
        strengths = [self._edge_strength(image, scale) for scale in self.scales]
        distance = clipped_distance(strengths[0] > self.threshold, self.reach)
        return torch.cat([*strengths, distance.to(image.dtype) / self.reach], 1)

    def _edge_strength(self, image: Tensor, scale: float) -> Tensor:
        smooth = gaussian_smooth(image, scale)
        square = torch.zeros_like(smooth)
        for axis in range(self.ndim):
            step = tuple(int(axis == other) for other in range(self.ndim))
            back = tuple(-offset for offset in step)
            square = square + (0.5 * (shift(smooth, step) - shift(smooth, back))) ** 2
        gradient = square.sqrt()
        everywhere = tuple(range(1, image.ndim))
        local = gaussian_smooth(gradient, 3 * scale) + 0.1 * gradient.mean(everywhere, keepdim=True)
        return gradient / (gradient + local).clamp_min(torch.finfo(image.dtype).tiny)


def clipped_distance(contour: Tensor, reach: int) -> Tensor:
    """Euclidean distance to the nearest true voxel, at most ``reach``.

    The squared distance transform is separable (Felzenszwalb and Huttenlocher, 2012): along
    each axis in turn, min over offsets of the value there plus the squared offset. Offsets
    beyond ``reach`` cannot lower a clipped distance, so each axis takes 2·reach + 1 shifts.

    Args:
        contour: (N, C, *spatial), bool.
        reach: voxels.

    Returns:
        (N, C, *spatial), float32, within [0, reach].
    """
    limit = float(reach**2)
    square = (~contour).float() * limit
    ndim = contour.ndim - 2
    for axis in range(ndim):
        best = square
        for offset in range(1, reach + 1):
            for sign in (-1, 1):
                step = tuple(sign * offset if axis == other else 0 for other in range(ndim))
                best = torch.minimum(best, shift(square, step) + offset**2)
        square = best
    return square.clamp_max(limit).sqrt()
