"""How an image continues outside of itself: the bounds of torch-interpol and MONAI.

The names are those of the discrete transforms whose basis functions continue so:

- "replicate" ``a a a | a b c d | d d d``
- "dct1" ``d c b | a b c d | c b a``
- "dct2" ``c b a | a b c d | d c b``
- "dst1" ``-b -a 0 | a b c d | 0 -d -c``
- "dst2" ``-c -b -a | a b c d | -d -c -b``
- "dft" ``b c d | a b c d | a b c``
- "zero" ``0 0 0 | a b c d | 0 0 0``
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BOUNDS = ("replicate", "dct1", "dct2", "dst1", "dst2", "dft", "zero")
ANTISYMMETRIC = ("dst1", "dst2")


def _period(n: int, bound: str) -> tuple[int, float, int] | None:
    """The period of a bound, from where on the image runs back in it, and about what.

    The last is the sum of two coordinates that have the same value. None where nothing is repeated.
    """
    if n == 1 and bound in ("dct1", "dct2", "dst1", "dft"):
        return None  # as "replicate": both peers take "dst1" of one voxel so, too
    return {
        "dct1": (2 * (n - 1), n - 1, 2 * (n - 1)),
        "dct2": (2 * n, n - 0.5, 2 * n - 1),
        "dst1": (2 * n + 2, n, 2 * n),
        "dst2": (2 * n, n - 0.5, 2 * n - 1),
        "dft": (n, n, 0),
    }.get(bound)


def folded(x: Tensor, n: int, bound: str) -> tuple[Tensor, Tensor | None]:
    """Coordinates within one period, or next to the image: between -2 and ``n`` for all bounds.

    Args:
        x: coordinates in voxels.
        n: the size of the image along this axis.
        bound: how the image continues.

    Returns:
        The coordinates, and whether the image runs back there; None where it never does.
    """
    period = _period(n, bound)
    if period is None:
        # Beyond the next voxel's centre a replicated image is constant for every order up to 3.
        return (x if bound == "zero" else x.clamp(-1, n)), None
    length, edge, total = period
    # Not torch.remainder, which takes four times as long.
    x = x - torch.floor(x.detach() / length) * length
    if bound == "dft":
        return x, None
    turned = x.detach() > edge
    return torch.where(turned, total - x, x), turned


def voxel_of(index: Tensor, n: int, bound: str) -> tuple[Tensor, Tensor | None]:
    """The voxel that a bound puts at an index, and the sign that it takes there.

    Args:
        index: integers.
        n: the size of the image along this axis.
        bound: how the image continues.

    Returns:
        Indices between 0 and ``n - 1``; and 1, 0 or -1 as an int8 tensor, None for 1 everywhere.
    """
    last = n - 1
    period = _period(n, bound)
    if period is None:
        sign = ((index >= 0) & (index <= last)).to(torch.int8) if bound == "zero" else None
        return index.clamp(0, last), sign
    length, edge, total = period
    index = index.remainder(length)
    if bound == "dft":
        return index, None
    turned = index > edge
    index = torch.where(turned, total - index, index)
    if bound not in ANTISYMMETRIC:
        return index, None
    sign = (1 - 2 * turned.to(torch.int8)) * ((index >= 0) & (index <= last))
    return index.clamp(0, last), sign


def padded(image: Tensor, bounds: Sequence[str], width: int) -> Tensor:
    """An image ``(N, C, *size)`` continued by ``width`` voxels on every side, but for "zero"."""
    for axis, bound in enumerate(bounds, 2):
        if width and bound != "zero":
            before, after = _edges(image, axis, image.shape[axis], bound, width)
            image = torch.cat([_read(image, axis, before), image, _read(image, axis, after)], axis)
    return image


def unpadded(sums: Tensor, size: Sequence[int], bounds: Sequence[str], width: int) -> Tensor:
    """The adjoint of :func:`padded`: what lies outside is added where it was read from."""
    for axis, (n, bound) in enumerate(zip(size, bounds, strict=True), 2):
        if width and bound != "zero":
            outside = sums.narrow(axis, 0, width), sums.narrow(axis, width + n, width)
            edges = _edges(sums, axis, n, bound, width)
            sums = sums.narrow(axis, width, n)
            for values, (index, sign) in zip(outside, edges, strict=True):
                sums = sums.index_add(axis, index, values if sign is None else values * sign)
    return sums


_Edge = tuple[Tensor, "Tensor | None"]


def _edges(x: Tensor, axis: int, n: int, bound: str, width: int) -> tuple[_Edge, _Edge]:
    """The voxels and their signs that continue an axis of length ``n`` before and after it."""

    def edge(start: int) -> _Edge:
        places = torch.arange(start, start + width, device=x.device)
        index, sign = voxel_of(places, n, bound)
        if sign is not None:
            sign = sign.to(x.dtype).view([-1 if i == axis else 1 for i in range(x.dim())])
        return index, sign

    return edge(-width), edge(n)


def _read(image: Tensor, axis: int, edge: _Edge) -> Tensor:
    index, sign = edge
    values = image.index_select(axis, index)
    return values if sign is None else values * sign
