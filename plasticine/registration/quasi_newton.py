"""A quasi-Newton descent for a dozen parameters, each step of which is no longer than it may be."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

_ENOUGH = 1e-4
"""Of the fall that the slope promises, the part that a step must bring (Armijo)."""


def descend(
    function: Callable[[Vector], tuple[float, Vector]],
    start: Vector,
    *,
    first: float,
    longest: float,
    shortest: float,
    evaluations: int,
) -> tuple[Vector, float]:
    """Lowers a function by BFGS with a backtracking line search.

    The inverse Hessian begins as a multiple of the identity, from the first step. A step whose
    direction does not fall, or along which no shorter one falls enough, starts it anew; twice
    in a row ends the descent. A value that is not finite counts as too high.

    Args:
        function: its value and gradient at (n,) parameters, which should be of one scale.
        start: (n,).
        first: length of the first step.
        longest: no step is longer.
        shortest: the descent ends with a step that is shorter.
        evaluations: at most, of the function.

    Returns:
        The parameters of the least value that was met, and that value.

    Source: J. Nocedal, S. J. Wright, "Numerical optimization", 2nd edition (2006), chapter 6.
    """
    place, (value, gradient), done = start, function(start), 1
    inverse: NDArray[np.float64] | None = None
    while done < evaluations and np.any(gradient):
        if inverse is None:
            direction = -gradient * (first / np.linalg.norm(gradient))
        else:
            direction = -inverse @ gradient
        slope = float(direction @ gradient)
        length = float(np.linalg.norm(direction))
        if not slope < 0:
            if inverse is None:
                break
            inverse = None
            continue
        share = min(1.0, longest / length)
        reached = None
        while done < evaluations:
            trial = place + share * direction
            found, steepness = function(trial)
            done += 1
            if found <= value + _ENOUGH * share * slope:
                reached = trial, found, steepness
                break
            # The minimum of the parabola through both values and the slope.
            bend = found - value - share * slope
            lower = -slope * share**2 / (2 * bend) if 0 < bend < math.inf else 0.0
            share = min(max(lower, 0.1 * share), 0.5 * share)
            if share * length < 0.1 * shortest:
                break
        if reached is None:
            if inverse is None:
                break
            inverse, first = None, max(share * length, shortest)
            continue
        step, change = reached[0] - place, reached[2] - gradient
        curvature = float(step @ change)
        if curvature > 1e-12 * float(np.linalg.norm(step) * np.linalg.norm(change)):
            if inverse is None:
                inverse = np.eye(len(start)) * (curvature / float(change @ change))
            keep = np.eye(len(start)) - np.outer(step, change) / curvature
            inverse = keep @ inverse @ keep.T + np.outer(step, step) / curvature
        place, value, gradient = reached
        if np.linalg.norm(step) < shortest:
            break
    return place, value
