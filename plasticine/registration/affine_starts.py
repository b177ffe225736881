"""Where an affine registration may begin: physical maps from fixed to moving millimetres."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from plasticine.registration.affine_levels import PlacedImage, homogeneous

STARTS = ("header", "centre", "mass", "axes")


def starts(
    moving: PlacedImage, fixed: PlacedImage, kinds: tuple[str, ...], rotations: int
) -> list[tuple[str, Tensor]]:
    """Rigid maps to begin with, each with the name of its kind.

    Args:
        moving: on a coarse level.
        fixed: likewise.
        kinds: of ``STARTS``: "header", the identity in millimetres; "centre", the middle of one
            image on that of the other; "mass", the centres of what is brighter than the
            background; "axes", these and their principal axes, with each choice of signs that
            is a rotation.
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

    for kind in kinds:
        if kind == "header":
            found.append((kind, homogeneous(identity, [0.0] * ndim)))
        elif kind == "centre":
            found.append((kind, homogeneous(identity, moving.centre - fixed.centre)))
        elif kind == "mass":
            found.append((kind, about(identity)))
        else:
            axes, target_axes = (torch.linalg.eigh(s).eigenvectors for s in (spread, target_spread))
            for signs in itertools.product((1.0, -1.0), repeat=ndim):
                signed = axes * torch.tensor(signs, dtype=torch.float64)
                rotation = signed @ target_axes.T
                if torch.linalg.det(rotation) > 0:
                    found.append((kind, about(rotation)))
    found += [("rotations", about(rotation)) for rotation in even_rotations(ndim, rotations)]
    return found


def even_rotations(ndim: int, count: int) -> list[Tensor]:
    """``count`` rotations that lie evenly among all of them, (d, d) float64.

    In 3D those of the super-Fibonacci spiral: M. Alexa, "Super-Fibonacci spirals: fast,
    low-discrepancy sampling of SO(3)", CVPR 2022.
    """
    if ndim == 2:
        angles = [2 * math.pi * number / count for number in range(count)]
        return [
            torch.tensor(
                [[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]], dtype=torch.float64
            )
            for a in angles
        ]
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
