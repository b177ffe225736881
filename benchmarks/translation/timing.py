"""What a translation takes, and what of it goes to φ: one slice alone.

    PLASTICINE_DATA=... python -m benchmarks.translation.timing

Translates a 112² T1 slice of patient 07 again and again with each solver. "Registration" is what φ
costs beyond intensity translation: the registration network, exp(v) and exp(-v) with the affine
map, and the warps of x and S(x). Medians of the wall clock and of processor time, all threads
together: the wall clock is right on an idle machine only, and the load at the end is written
beside it. (On a busy one ``OMP_WAIT_POLICY=passive`` keeps waiting threads from burning processor
time.) Writes ``benchmarks/results/translation_timing.json``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor

from benchmarks.translation.record import RESULTS, add_data_argument, machine, versions, write
from benchmarks.translation.task import load_task
from plasticine.translation import Translator
from plasticine.translation.moved_source import MovedSource
from plasticine.translation.registering import Batch, predicted_deformation

SOLVERS = ("ddim", "dpm-solver++")


def medians(work: Callable[[], object], rounds: int, name: str) -> dict[str, float]:
    """Median seconds of a call: on the wall clock, and of the processor."""
    wall, processor = [], []
    with Progress() as bar:
        for _ in bar.track(range(rounds + 1), description=name):
            began = time.perf_counter(), time.process_time()
            work()
            wall.append(time.perf_counter() - began[0])
            processor.append(time.process_time() - began[1])
    # The first call is not like the others.
    return {
        "seconds": statistics.median(wall[1:]),
        "processor_seconds": statistics.median(processor[1:]),
    }


def measure(translator: Translator, image: Tensor, steps: int, rounds: int) -> dict[str, Any]:
    """The times of translation with each solver, and of registration alone."""
    model, batch = translator.model, Batch(image)

    @torch.no_grad()
    def register() -> MovedSource:
        found = predicted_deformation(model, model.denoiser, batch, seed=0)
        return MovedSource(batch.x, structure, *found.displacements())

    with torch.no_grad():
        structure = model.structure(batch.x, "source")
    figures: dict[str, Any] = {"registration": medians(register, rounds, "registration")}
    for solver in SOLVERS:
        found = medians(
            lambda solver=solver: translator.translate(image, solver=solver, steps=steps),
            rounds,
            solver,
        )
        share = figures["registration"]["processor_seconds"] / found["processor_seconds"]
        figures[solver] = found | {"share_of_registration": share}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="brain-t1-t2", help="shipped name or file")
    parser.add_argument("--output", type=Path, default=RESULTS / "translation_timing.json")
    parser.add_argument("--slice", type=int, default=48)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    add_data_argument(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    image = load_task("T1-T2", arguments.data).test["source"][arguments.slice][None]
    translator = Translator.load(arguments.model)
    record = {
        "model": arguments.model,
        "slice": arguments.slice,
        "size": list(image.shape[2:]),
        "steps": arguments.steps,
        "rounds": arguments.rounds,
        "figures": measure(translator, image, arguments.steps, arguments.rounds),
        "load": os.getloadavg()[0],
        "machine": machine(),
        "versions": versions(),
    }
    write(arguments.output, record)
    for name, values in record["figures"].items():
        print(name, "  ".join(f"{key} {value:.3g}" for key, value in values.items()))


if __name__ == "__main__":
    main()
