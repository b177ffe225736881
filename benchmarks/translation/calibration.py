"""Whether the samples' standard deviation tells how far off their mean is.

    PLASTICINE_DATA=... python -m benchmarks.translation.calibration --output FOLDER

Translates slices of patient 07, whom the model has not seen, without deformation, and counts in
the brain how often the true image lies within 1 and 2 standard deviations of the mean of the
samples: 68 % and 95 %, if errors were Gaussian and the deviation were theirs. The factor that the
deviation must be multiplied by for 68 % is found on every second slice and tried on the others.
Writes ``calibration.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks.translation.record import add_data_argument, machine, versions, write
from benchmarks.translation.task import TASKS, load_task
from plasticine.metrics import erode
from plasticine.translation import Translator

FLOOR = 1 / 255  # of the deviation: the truth is stored in steps of that


def shares(
    error: torch.Tensor, deviation: torch.Tensor, inside: torch.Tensor, factor: float = 1.0
) -> dict[str, Any]:
    """How often the truth lies within 1 and 2 deviations, times a factor."""
    ratio = error[inside] / (factor * deviation[inside].clamp(min=FLOOR))
    return {
        "within_1": float((ratio <= 1).float().mean()),
        "within_2": float((ratio <= 2).float().mean()),
        "voxels": int(inside.sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="brain-t1-t2", help="shipped name or file")
    parser.add_argument("--task", choices=TASKS, default="T1-T2")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--every", type=int, default=4, help="take every n-th slice")
    add_data_argument(parser)
    arguments = parser.parse_args()
    data = load_task(arguments.task, arguments.data).test
    source, truth, mask = (data[n][:: arguments.every] for n in ("source", "truth", "mask"))
    trace = Translator.load(arguments.model).translate(
        source, deform=False, samples=arguments.samples, steps=arguments.steps
    )
    assert trace.uncertainty is not None
    error, deviation = (trace.translated - truth).abs(), trace.uncertainty
    fitted, tried = slice(0, None, 2), slice(1, None, 2)
    figures: dict[str, Any] = {}
    for name, inside in (("brain", mask), ("brain eroded by 4 voxels", erode(mask, 4))):
        held = inside[fitted]
        ratio = error[fitted][held] / deviation[fitted][held].clamp(min=FLOOR)
        factor = float(ratio.quantile(0.6827)) if ratio.numel() < 2**24 else float("nan")
        figures[name] = {
            "as written": shares(error, deviation, inside),
            "factor": factor,
            "times factor, on the other slices": shares(
                error[tried], deviation[tried], inside[tried], factor
            ),
            "correlation_of_error_and_deviation": float(
                torch.corrcoef(torch.stack((error[inside], deviation[inside])))[0, 1]
            ),
        }
    record = {
        "task": arguments.task,
        "model": Path(arguments.model).stem,
        "patient": f"07, every {arguments.every}th slice",
        "slices": len(source),
        "samples": arguments.samples,
        "steps": trace.arguments["steps"],
        "machine": machine(),
        "versions": versions(),
        "figures": figures,
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    write(arguments.output / "calibration.json", record)
    for name, values in figures.items():
        print(name, values)


if __name__ == "__main__":
    main()
