"""What labels, landmarks and several losses do to the greedy stage, on pairs of heads.

    OMP_NUM_THREADS=1 python -m benchmarks.registration.driven [--judge]

Half of the labels, every other one of their numbers, drive the registration, or the first eight;
the other half says what that does to labels that it has not seen. Landmarks are the centres of
every seventh label; those of the others are looked at besides.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

import plasticine
from benchmarks.registration import heads
from plasticine import metrics
from plasticine.nn.points import move_points
from plasticine.registration import AffineDisplacement, GreedyRegistration, Landmarks, Similarity
from plasticine.registration.label_channels import with_labels
from plasticine.registration.landmarks import mapped

DEFAULT = GreedyRegistration()
SPACING = 2.0
LOSSES = (
    (Similarity(),),
    (Similarity(), Similarity("mind", weight=0.5)),
    (Similarity(), Similarity("sum_of_squares", weight=0.5)),
    (Similarity(), Similarity("mutual_information", weight=0.25)),
    (Similarity(window=3), Similarity(window=7)),
)
Case = tuple[heads.Head, heads.Head, Tensor]
Labels = list[int]


def of_labels(case: Case, weight: float, choose: Callable[[Labels], Labels]) -> list[float]:
    """Dice of the labels that drive, and of those that do not; seconds, SDlogJ."""
    moving, fixed, affine = case
    maps = moving.labels.long(), fixed.labels.long()
    driving = choose([n for n in torch.cat([x.unique() for x in maps]).unique().tolist() if n])
    registration, images = DEFAULT, (moving.image, fixed.image)
    start = time.process_time()
    if weight:
        own = torch.tensor(driving)
        chosen = tuple(torch.where(torch.isin(x, own), x, 0) for x in maps)
        similarity, images = with_labels(DEFAULT.similarity, images, chosen, weight)
        registration = replace(DEFAULT, similarity=similarity)
    found = registration(*images, affine=affine)
    seconds = time.process_time() - start
    scores = metrics.dice(carried(moving, found, affine), maps[1])
    halves = [
        np.mean([score for n, score in scores.items() if (n in driving) == wanted])
        for wanted in (True, False)
    ]
    return [*halves, seconds, heads.folding(found.displacement)["sdlogj"]]


def of_landmarks(case: Case, weight: float) -> list[float]:
    """Millimetres between landmarks, after the affine map and after all; others'; Dice, seconds."""
    moving, fixed, affine = case
    common = [n for n in fixed.labels.unique().tolist() if n and bool((moving.labels == n).any())]
    places = [
        torch.stack([(head.labels[0, 0] == n).nonzero().double().mean(0) for n in common])[None]
        for head in (moving, fixed)
    ]
    pulls = torch.arange(len(common)) % 7 == 0
    landmarks = Landmarks(places[0][:, pulls], places[1][:, pulls], weight) if weight else None
    start = time.process_time()
    found = DEFAULT(moving.image, fixed.image, affine=affine, landmarks=landmarks)
    seconds = time.process_time() - start
    u = found.displacement.double()
    before, after = (
        SPACING * (mapped(affine, points) - places[0])[0].norm(dim=1)
        for points in (places[1], move_points(places[1], u))
    )
    dice = heads.mean_dice(moving, fixed, found.offset(), affine)
    return [*(float(x.mean()) for x in (before[pulls], after[pulls], after[~pulls])), dice, seconds]


def of_losses(case: Case, similarity: Sequence[Similarity]) -> list[float]:
    """Dice and seconds."""
    moving, fixed, affine = case
    start = time.process_time()
    found = replace(DEFAULT, similarity=similarity)(moving.image, fixed.image, affine=affine)
    seconds = time.process_time() - start
    return [heads.mean_dice(moving, fixed, found.offset(), affine), seconds]


def carried(moving: heads.Head, found: AffineDisplacement, affine: Tensor) -> Tensor:
    return plasticine.warp(
        moving.labels, found.offset(), affine=affine, mode="nearest", padding="zeros"
    ).long()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--judge", action="store_true", help="the pairs that nothing is chosen by")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cases = []
    for pair in heads.JUDGING if arguments.judge else heads.CHOOSING:
        moving, fixed = map(heads.head, pair)
        cases.append((moving, fixed, heads.affine_start(moving, fixed)))

    def row(name: str, measure: Callable[[Case], list[float]]) -> None:
        found = np.mean([measure(case) for case in cases], 0)
        print(f"{name} | {' | '.join(f'{value:.4g}' for value in found)}", flush=True)

    print("labels that drive, weight | Dice of these | of the others | s | SDlogJ")
    for weight in (0.0, 0.25, 1.0, 4.0):
        row(f"half, {weight:g}", lambda case, w=weight: of_labels(case, w, lambda x: x[::2]))
    for weight in (0.0, 1.0):
        row(f"eight, {weight:g}", lambda case, w=weight: of_labels(case, w, lambda x: x[:8]))
    print("landmarks, weight | mm, affine | mm | mm of others | Dice | s")
    for weight in (0.0, 1.0, 4.0, 16.0):
        row(f"{weight:g}", lambda case, w=weight: of_landmarks(case, w))
    print("losses | Dice | s")
    for similarity in LOSSES:
        name = " + ".join(f"{one.weight:g} {one.metric} {one.window}" for one in similarity)
        row(name, lambda case, s=similarity: of_losses(case, s))


if __name__ == "__main__":
    main()
