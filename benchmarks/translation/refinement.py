"""Whether refining φ while sampling helps: 0 to 3 refinements, on the same slices and noise.

    PLASTICINE_DATA=... python -m benchmarks.translation.refinement

Translates some T1 slices of patient 07, which the shipped model has not seen, each with the same
noise, and says how well the picture obeys its condition (structure agreement), how well the moved
source fits the picture (mutual information of x∘φ with ŷ), how near the picture pulled back by φ⁻¹
is to the true T2, and what became of φ. Writes ``benchmarks/results/refinement.json``.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from benchmarks.translation.held_out import score
from benchmarks.translation.record import add_shared_arguments, versions, write
from benchmarks.translation.task import FOREGROUND, load_task, some_slices
from plasticine import mutual_information
from plasticine.translation import Trace, Translator

SHOWN = ("psnr", "ssim", "psnr_inside", "ssim_inside")


def figures(trace: Trace, data: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The figures of one translation."""
    body = trace.warped > FOREGROUND
    against = score(trace.translated_in_source(), data)
    lengths = torch.linalg.vector_norm(trace.displacement, dim=1)
    return {
        "structure_agreement": trace.structure_agreement.mean().item(),
        "mutual_information": mutual_information(
            trace.warped, trace.translated, mask=body, value_range=(0.0, 1.0)
        )
        .mean()
        .item(),
        **{name: against[name] for name in SHOWN},
        "displacement_mean": lengths.mean().item(),
        "displacement_max": lengths.max().item(),
        "folds": int(trace.folding.folds.sum()),
        "jacobian_min": trace.jacobian.min().item(),
        "inverse_consistency_mean": trace.inverse_consistency.mean().item(),
        "inverse_consistency_max": trace.inverse_consistency.max().item(),
        "seconds": trace.seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_shared_arguments(parser, "refinement", every=12)
    parser.add_argument("--solver", default="dpm-solver++")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    arguments = parser.parse_args()
    data = some_slices(load_task("T1-T2", arguments.data).test, arguments.every)
    translator = Translator.load(arguments.model)
    record: dict[str, Any] = {
        "model": arguments.model,
        "slices": f"patient 07, {len(data['source'])} slices, each {arguments.every}th",
        "solver": arguments.solver,
        "steps": arguments.steps,
        "versions": versions(),
        "figures": {},
    }
    for seed in arguments.seeds:
        for refine in range(4):
            trace = translator.translate(
                data["source"],
                refine=refine,
                solver=arguments.solver,
                steps=arguments.steps,
                seed=seed,
            )
            found = figures(trace, data)
            record["figures"][f"seed {seed}, {refine} refinements"] = found
            shown = "  ".join(f"{name} {value:.4g}" for name, value in found.items())
            print(f"seed {seed}  refine {refine}  {shown}", flush=True)
    write(arguments.output, record)


if __name__ == "__main__":
    main()
