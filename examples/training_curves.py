"""Times a training, and compares two."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch


class Training(NamedTuple):
    """The loss of each step, and the time of one in the middle, in milliseconds."""

    losses: list[float]
    milliseconds: float


def run(steps: Iterator[float]) -> Training:
    """Runs a training, which yields the loss of each step."""
    losses, times = [], []
    start = time.perf_counter()
    for loss in steps:
        losses.append(loss)
        times.append(1000 * (time.perf_counter() - start))
        start = time.perf_counter()
    return Training(losses, statistics.median(times[1:] or times))  # the first builds the model


def compare(without: Training, added: Training) -> None:
    """Prints both; ends with an error where the losses differ by more than rounding."""
    print(f"{'step':>6} {'without':>12} {'with':>12}")
    for step, pair in enumerate(zip(without.losses, added.losses, strict=True)):
        print(f"{step:6} {pair[0]:12.6f} {pair[1]:12.6f}")
    print(f"{'ms':>6} {without.milliseconds:12.1f} {added.milliseconds:12.1f}")
    print(f"a step takes {without.milliseconds / added.milliseconds:.2f} times less time")
    torch.testing.assert_close(
        torch.tensor(added.losses), torch.tensor(without.losses), rtol=1e-3, atol=1e-4
    )


def arguments(about: str | None) -> argparse.Namespace:
    """--size and --steps."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--size", type=int, default=64, help="of the images, in voxels")
    parser.add_argument("--steps", type=int, default=5, help="of the training")
    return parser.parse_args()
