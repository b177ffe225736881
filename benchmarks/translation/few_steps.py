"""How few network runs will do: every solver at a few steps against 250 steps of DDIM.

    PLASTICINE_DATA=... python -m benchmarks.translation.few_steps

Translates some T1 slices of patient 07, which the shipped model has not seen, without deformation
and each from the same noise, and gives PSNR and SSIM against the true T2 and against what 250 DDIM
steps make of that noise. Writes ``benchmarks/results/few_steps.json``.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from benchmarks.translation.held_out import score
from benchmarks.translation.record import add_shared_arguments, versions, write
from benchmarks.translation.task import load_task, some_slices
from plasticine.translation import Translator

LONG = ("ddim", 250)
FEW = (
    *[("ddpm", 10), ("ddim", 4), ("ddim", 10), ("ddim", 20)],
    *[("dpm-solver++", steps) for steps in (5, 10, 20)],
)
SHOWN = ("psnr", "ssim", "psnr_inside", "ssim_inside", "correlation_inside")


def measure(translator: Translator, data: dict[str, torch.Tensor], seed: int) -> dict[str, Any]:
    """The figures of every solver and number of steps."""
    source = data["source"]

    def translate(solver: str, steps: int) -> torch.Tensor:
        trace = translator.translate(source, deform=False, solver=solver, steps=steps, seed=seed)
        return trace.translated

    long = translate(*LONG)
    figures = {}
    for solver, steps in (LONG, *FEW):
        found = long if (solver, steps) == LONG else translate(solver, steps)
        against = {"truth": score(found, data)}
        if (solver, steps) != LONG:
            against[f"{LONG[1]} {LONG[0]} steps"] = score(found, data | {"truth": long})
        name = f"{solver}, {steps} steps"
        figures[name] = {
            other: {key: values[key] for key in SHOWN} for other, values in against.items()
        }
        shown = [f"{other}: {v['psnr']:.2f} dB {v['ssim']:.3f}" for other, v in against.items()]
        print(f"{name:24s} {'   '.join(shown)}", flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_shared_arguments(parser, "few_steps", every=12)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    data = some_slices(load_task("T1-T2", arguments.data).test, arguments.every)
    translator = Translator.load(arguments.model)
    record: dict[str, Any] = {
        "model": arguments.model,
        "slices": f"patient 07, {len(data['source'])} slices, each {arguments.every}th",
        "seed": arguments.seed,
        "versions": versions(),
        "figures": measure(translator, data, arguments.seed),
    }
    write(arguments.output, record)


if __name__ == "__main__":
    main()
