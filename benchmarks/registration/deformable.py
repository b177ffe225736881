"""The deformable stages on pairs of heads, from our affine registration.

    OMP_NUM_THREADS=1 python -m benchmarks.registration.deformable [SETTINGS ...]

With ``--velocity`` it is ``VelocityRegistration``, else ``GreedyRegistration``. SETTINGS are
changes of it, such as ``"levels=((4, 50, 1.4), (1, 9, 0.7)), step=0.5"``, or the name of a budget;
without any all budgets are run. Prints the mean Dice of the labels of every pair, the processor's
seconds, what folds, the mean of |φ⁻¹∘φ - id| and of |φ∘φ⁻¹ - id| over all voxels, 0 where they are
sent outside, and the page faults of the last pair.
"""

from __future__ import annotations

import argparse
import resource
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.registration import heads
from plasticine.registration import GreedyRegistration, Level, VelocityRegistration
from plasticine.registration.greedy import BUDGETS
from plasticine.registration.velocity import BUDGETS as VELOCITY_BUDGETS


def settings_of(text: str, *, velocity: bool = False) -> GreedyRegistration | VelocityRegistration:
    budgets = VELOCITY_BUDGETS if velocity else BUDGETS
    if text in budgets:
        return budgets[text]
    changes: dict[str, Any] = eval(f"dict({text})", {})
    base = budgets[changes.pop("budget", "default")]
    if "levels" in changes:
        changes["levels"] = tuple(Level(*level) for level in changes["levels"])
    own = {name: changes.pop(name) for name in ("metric", "window", "dilations") if name in changes}
    return replace(base, similarity=replace(base.similarity, **own), **changes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("settings", nargs="*", default=list(BUDGETS))
    parser.add_argument("--velocity", action="store_true", help="in both directions")
    parser.add_argument("--judge", action="store_true", help="the pairs that nothing is chosen by")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "settings | Dice (of each pair) | s | folds | corners' volume | SDlogJ | "
        "φ⁻¹∘φ | φ∘φ⁻¹ | page faults"
    )
    for text in arguments.settings:
        registration = settings_of(text, velocity=arguments.velocity)
        dice, seconds, folding, consistency, faults = [], [], [], [], 0
        for pair in heads.JUDGING if arguments.judge else heads.CHOOSING:
            moving, fixed = map(heads.head, pair)
            affine = heads.affine_start(moving, fixed)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            start = time.process_time()
            found = registration(moving.image, fixed.image, affine=affine)
            seconds.append(time.process_time() - start)
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
            dice.append(heads.mean_dice(moving, fixed, found.offset(), affine))
            folding.append(heads.folding(found.displacement))
            consistency.append(heads.inverse_consistency(found))
        print(
            f"{text} | {np.mean(dice):.4f} ({' '.join(f'{d:.4f}' for d in dice)}) | "
            f"{np.mean(seconds):.2f} | {sum(f['folds'] for f in folding)} | "
            f"{sum(f['volume'] for f in folding):.2f} | "
            f"{np.mean([f['sdlogj'] for f in folding]):.3f} | "
            f"{' | '.join(f'{c:.4f}' for c in np.mean(consistency, 0))} | {faults}",
            flush=True,
        )


if __name__ == "__main__":
    main()
