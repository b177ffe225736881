"""Whether two images that lie on one another show the same tissues in unlike contrasts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from plasticine.ops.warp import warp
from plasticine.reference.lncc import correlation
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
_DARK = 0.3
"""Part of the inside that may be fluid."""
_OTHER_ORDER = -0.1
"""Correlation of the ranks of what is brighter below which its order is another one."""
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
    warped = warp(source.image, still, affine=affine)
    # In float64, for squares are subtracted.
    signed = correlation(warped.double(), target.image.double(), window=_WINDOW, squared=False)
    whole, inside = (signed[mask.expand_as(signed)] for mask in (every, inner))
    if float((whole**2).mean()) < _AGREEING:
        return False
    signs = torch.stack([_excess(whole), _excess(inside)])
    if float(signs.amin()) < _ONE_SIGN and float(signs.amax()) > -_ONE_SIGN:
        return True
    bright = _order_of_bright(warped[:, :1][inner], target.image[:, :1][inner])
    return bright * float(signs[1].sign()) < _OTHER_ORDER


def _excess(signed: Tensor) -> Tensor:
    """From -1, all negative, to 1, all positive."""
    return signed.mean() / signed.abs().mean().clamp_min(1e-6)


def _order_of_bright(one: Tensor, other: Tensor) -> float:
    """The correlation of ranks where both are among their brighter values, from -1 to 1.

    Fluid is the darkest in T1 and in FLAIR, and fills most windows that have an edge; what is
    brighter, grey and white matter, goes the other way.
    """
    ranks = torch.stack([x.argsort().argsort() for x in (one, other)]).double()
    bright = ranks[:, (ranks > _DARK * len(one)).all(0)]
    return float(bright.corrcoef()[0, 1]) if bright.shape[1] > 1 else 0.0


def _eroded(mask: Tensor) -> Tensor:
    """Without what is within the rim, (1, 1, *spatial) bool."""
    pool = functional.max_pool2d if mask.ndim == 4 else functional.max_pool3d
    return pool((~mask).float(), 2 * _RIM + 1, 1, _RIM) == 0
