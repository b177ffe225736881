"""Where an affine registration may begin: physical maps from fixed to moving millimetres."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from plasticine.registration.affine_levels import PlacedImage, homogeneous

STARTS = ("header", "centre", "mass", "axes", "offsets")

_TURNS = {2: (0.0, -15.0, 15.0, -30.0, 30.0), 3: (0.0,)}
"""Degrees by which each offset is turned, too, by the number of axes: in 2D it costs little."""
_STEPS = {2: 8, 3: 3}
"""Offsets in the length of the shorter image along an axis, by the number of axes."""


def starts(
    moving: PlacedImage, fixed: PlacedImage, kinds: Sequence[str], rotations: int
) -> list[tuple[str, Tensor]]:
    """Rigid maps to begin with, each with the name of its kind; all but "offsets".

    Args:
        moving: on a coarse level.
        fixed: likewise.
        kinds: of ``STARTS``.
        rotations: how many rotations about the centre of mass, spread evenly over all of them.

    Returns:
        Pairs of a name and a (d + 1, d + 1) float64 matrix.
    """
    ndim = fixed.ndim
    identity = torch.eye(ndim, dtype=torch.float64)
    (centre, spread), (target, target_spread) = moving.moments(), fixed.moments()
    found: list[tuple[str, Tensor]] = []

    def about(rotation: Tensor) -> Tensor:
        return homogeneous(rotation, centre - rotation @ target)

    if "header" in kinds:
        found.append(("header", homogeneous(identity, [0.0] * ndim)))
    if "centre" in kinds:
        found.append(("centre", homogeneous(identity, moving.centre - fixed.centre)))
    if "mass" in kinds:
        found.append(("mass", about(identity)))
    if "axes" in kinds:
        axes, target_axes = (torch.linalg.eigh(s).eigenvectors for s in (spread, target_spread))
        for signs in itertools.product((1.0, -1.0), repeat=ndim):
            rotation = axes * torch.tensor(signs, dtype=torch.float64) @ target_axes.T
            if torch.linalg.det(rotation) > 0:
                found.append(("axes", about(rotation)))
    return found + [("rotations", about(turn)) for turn in even_rotations(ndim, rotations)]


def offsets(moving: PlacedImage, fixed: PlacedImage) -> list[tuple[str, Tensor]]:
    """Translations on a grid, for images of which one shows a part of the other.

    The grid reaches as far as half of the shorter image still overlaps along each axis. In 2D each
    offset goes with small turns, too.
    """
    ndim = fixed.ndim
    lines = []
    for one, other in zip(_box(moving), _box(fixed), strict=True):
        step = min(one, other) / _STEPS[ndim]
        steps = int((one + other - min(one, other)) / 2 / step)
        lines.append([step * number for number in range(-steps, steps + 1)])
    turns = [_turn(degrees, ndim) for degrees in _TURNS[ndim]]
    found = []
    for offset in itertools.product(*lines):
        place = moving.centre + torch.tensor(offset, dtype=torch.float64)
        for turn in turns:
            found.append(("offsets", homogeneous(turn, place - turn @ fixed.centre)))
    return found


def with_turns(physical: Tensor, centre: Tensor) -> list[tuple[str, Tensor]]:
    """In 3D a map after turns of 30 degrees both ways about each axis; in 2D offsets have them.

    Args:
        physical: (d + 1, d + 1) float64.
        centre: (d,), the place of the fixed image that stays where the map puts it.
    """
    if len(centre) == 2:
        return []
    found = []
    for plane in itertools.combinations(range(3), 2):
        for degrees in (-30.0, 30.0):
            turn = _turn(degrees, 3, plane)
            found.append(("offsets", physical @ homogeneous(turn, centre - turn @ centre)))
    return found


def _turn(degrees: float, ndim: int, plane: Sequence[int] = (0, 1)) -> Tensor:
    """A rotation in the plane of two axes, (d, d) float64."""
    turn = torch.eye(ndim, dtype=torch.float64)
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn[plane[0], plane[0]] = turn[plane[1], plane[1]] = c
    turn[plane[1], plane[0]] = s
    turn[plane[0], plane[1]] = -s
    return turn


def _box(image: PlacedImage) -> list[float]:
    """The lengths of the box along millimetre axes that holds an image."""
    size = torch.tensor(image.size, dtype=torch.float64)
    return [float(n) for n in image.affine[:-1, :-1].abs() @ size]


def even_rotations(ndim: int, count: int) -> list[Tensor]:
    """``count`` rotations that lie evenly among all of them, (d, d) float64.

    In 3D those of the super-Fibonacci spiral: M. Alexa, "Super-Fibonacci spirals: fast,
    low-discrepancy sampling of SO(3)", CVPR 2022.
    """
    if ndim == 2:
        return [_turn(360 * number / count, ndim) for number in range(count)]
    found = []
    for number in range(count):
        s = number + 0.5
        small, large = math.sqrt(s / count), math.sqrt(1 - s / count)
        alpha, beta = 2 * math.pi * s / math.sqrt(2), 2 * math.pi * s / 1.533751168755204288
        found.append(
            _of_quaternion(
                large * math.cos(beta),
                small * math.sin(alpha),
                small * math.cos(alpha),
                large * math.sin(beta),
            )
        )
    return found


def _of_quaternion(w: float, x: float, y: float, z: float) -> Tensor:
    return torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ],
        dtype=torch.float64,
    )
