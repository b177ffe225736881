"""What a translation takes, and what of it goes to φ: one slice alone.

    PLASTICINE_DATA=... python -m benchmarks.translation.timing
    PLASTICINE_DATA=... python -m benchmarks.translation.timing --device cuda --output FILE

Translates a 112² T1 slice of patient 07 again and again with each solver. "Registration" is what φ
costs beyond intensity translation: the registration network, exp(v) and exp(-v) with the affine
map, and the warps of x and S(x). Medians of the wall clock and of processor time, all threads
together: the wall clock is right on an idle machine only, and the load at the end is written
beside it. (On a busy one ``OMP_WAIT_POLICY=passive`` keeps waiting threads from burning processor
time.) Beside these, the memory that a call takes at most. ``--compile`` adds the compiled denoiser,
and both in bfloat16. On a GPU shares are of the wall clock. Writes
``benchmarks/results/translation_timing.json``.
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

from benchmarks.memory import HOW, peak_bytes
from benchmarks.translation.record import RESULTS, add_data_argument, machine, versions, write
from benchmarks.translation.task import load_task
from plasticine.translation import Sampling, Translator
from plasticine.translation.registering import Batch, predicted_deformation
from plasticine.translation.warped_source import WarpedSource

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


def measure(
    translator: Translator, image: Tensor, steps: int, rounds: int, compiled: Translator | None
) -> dict[str, Any]:
    """The times of translation with each solver, and of registration alone."""
    model, device = translator.model, translator.device
    batch = Batch(image.to(device))
    clock = "processor_seconds" if device.type == "cpu" else "seconds"

    @torch.no_grad()
    def register() -> None:
        found = predicted_deformation(model, batch, Sampling())
        WarpedSource(batch.x, structure, *found.displacements())
        if device.type == "cuda":
            torch.cuda.synchronize()

    def translated(by: Translator, **arguments: Any) -> Callable[[], object]:
        return lambda: by.translate(image, steps=steps, **arguments)

    with torch.no_grad():
        structure = model.structure(batch.x, "source")
    work = {solver: translated(translator, solver=solver) for solver in SOLVERS}
    if compiled is not None:
        work["compiled"] = translated(compiled)
        for name, by in (("bfloat16", translator), ("compiled, bfloat16", compiled)):
            work[name] = translated(by, precision="bfloat16")
    figures: dict[str, Any] = {"registration": medians(register, rounds, "registration")}
    for name, call in work.items():
        found = medians(call, rounds, name)
        share = figures["registration"][clock] / found[clock]
        peak = peak_bytes(call, device)
        figures[name] = found | {"share_of_registration": share, "peak_bytes": peak}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="brain-t1-t2", help="shipped name or file")
    parser.add_argument("--output", type=Path, default=RESULTS / "translation_timing.json")
    parser.add_argument("--slice", type=int, default=48)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="the compiled denoiser, too")
    add_data_argument(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    image = load_task("T1-T2", arguments.data).test["source"][arguments.slice][None]
    translator = Translator.load(arguments.model, arguments.device)
    compiled = None
    if arguments.compile:
        compiled = Translator.load(arguments.model, arguments.device, compile=True)
    record = {
        "model": arguments.model,
        "slice": arguments.slice,
        "size": list(image.shape[2:]),
        "steps": arguments.steps,
        "rounds": arguments.rounds,
        "device": arguments.device,
        "figures": measure(translator, image, arguments.steps, arguments.rounds, compiled),
        "memory": HOW[torch.device(arguments.device).type],
        "load": os.getloadavg()[0],
        "machine": machine(),
        "versions": versions(),
    }
    write(arguments.output, record)
    for name, values in record["figures"].items():
        shown = {key: value for key, value in values.items() if value is not None}
        print(name, "  ".join(f"{key} {value:.3g}" for key, value in shown.items()))


if __name__ == "__main__":
    main()
