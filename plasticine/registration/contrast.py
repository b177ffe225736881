"""Whether two images that lie on one another show the same tissues in unlike contrasts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from plasticine.ops.warp import warp
from plasticine.registration.affine_levels import PlacedImage, level_spacings

_VOXELS = 200_000
"""At most, of the level on which windows are compared."""
_WINDOW = 5
_RIM = 2
"""Voxels of the body's rim, where every contrast goes from the body down to the air."""
_LEAST_INSIDE = 50
"""Voxels without which there is nothing to say of the inside."""
_AGREEING = 0.4
"""Mean squared correlation of windows from which on the images agree about where things are."""
_ONE_SIGN = 0.5
"""Excess of correlations of one sign below which they are of several."""


@torch.no_grad()
def contrasts_differ(moving: PlacedImage, fixed: PlacedImage, physical: Tensor) -> bool:
    """Whether bright and dark inside of the body are exchanged in places, and not in all.

    Within a modality, inverted ones included, windows correlate with one sign in all of the body.
    T1 and T2 agree at the brain's outline, bright against dark, and inside go against each other.
    There a squared correlation is high wherever an edge of one image meets an edge of any kind, and
    a registration that follows it freely drifts. Where windows hardly correlate, as in ultrasound
    or before large motion, signs say nothing, and the answer is no.

    Args:
        moving: where the matrices place it.
        fixed: likewise.
        physical: (d + 1, d + 1) float64, fixed to moving millimetres: the affine registration.
    """
    spacing = level_spacings(fixed, _VOXELS, _VOXELS)[-1]
    source, target = moving.at(spacing), fixed.at(spacing)
    affine = (torch.linalg.inv(source.affine) @ physical @ target.affine)[None, :-1]
    affine = affine.to(target.image)
    still = target.image.new_zeros(1).expand(1, target.ndim, *target.size)

    def carried(image: Tensor) -> Tensor:
        return warp(image, still, affine=affine, padding="zeros")

    body = target.focused().weight
    seen = carried(torch.ones_like(source.image[:, :1])) >= 1
    every = seen if body is None else seen & (body > 0)
    bodies = [image.foreground()[None, None].to(still) for image in (source, target)]
    inner = _eroded((carried(bodies[0]) >= 1) & (bodies[1] > 0))
    if int(inner.sum()) < _LEAST_INSIDE:
        return False
    correlation = _correlation(warp(source.image, still, affine=affine), target.image)
    whole, inside = (correlation[mask.expand_as(correlation)] for mask in (every, inner))
    if float((whole**2).mean()) < _AGREEING:
        return False
    signs = torch.stack([_excess(whole), _excess(inside)])
    return float(signs.amin()) < _ONE_SIGN and float(signs.amax()) > -_ONE_SIGN


def _excess(correlation: Tensor) -> Tensor:
    """From -1, all negative, to 1, all positive."""
    return correlation.mean() / correlation.abs().mean().clamp_min(1e-6)


def _eroded(mask: Tensor) -> Tensor:
    """Without what is within the rim, (1, 1, *spatial) bool."""
    pool = functional.max_pool2d if mask.ndim == 4 else functional.max_pool3d
    return pool((~mask).float(), 2 * _RIM + 1, 1, _RIM) == 0


def _correlation(one: Tensor, other: Tensor) -> Tensor:
    """Of windows around every voxel, signed, (1, C, *spatial); 0 where a window is flat."""
    x, y = (_standardised(image) for image in (one, other))
    mean_x, mean_y, xx, yy, xy = (_window_mean(v) for v in (x, y, x * x, y * y, x * y))
    variances = (xx - mean_x**2).clamp_min(0), (yy - mean_y**2).clamp_min(0)
    product = variances[0] * variances[1]
    return torch.where(product > 1e-9, (xy - mean_x * mean_y) / product.clamp_min(1e-9).sqrt(), 0)


def _standardised(image: Tensor) -> Tensor:
    """In float64, for squares to be subtracted."""
    values = image.double()
    return (values - values.mean()) / values.std().clamp_min(1e-30)


def _window_mean(values: Tensor) -> Tensor:
    """Of a window around every voxel, as far as it lies in the image."""
    for axis in range(2, values.ndim):
        line = values.movedim(axis, -1)
        means = functional.avg_pool1d(
            line.reshape(1, -1, line.shape[-1]), _WINDOW, 1, _WINDOW // 2, count_include_pad=False
        )
        values = means.view(line.shape).movedim(-1, axis)
    return values
