"""A model on a patient it has not seen, against that patient's true images.

    PLASTICINE_DATA=... python -m benchmarks.translation.held_out --output FOLDER

The checkout must be installed with ``pip install -e .``: otherwise it hides the installed package,
and the operators run on their reference.

Translates every slice of patient 07 without deformation, and with it, pulling the result back by
the inverse deformation, and compares both with the true slices of the target: one sample, and the
mean of several. ``--task`` takes another pair of contrasts, with a model of one's own. Writes
``held_out.json`` and ``held_out.png``.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.translation.baselines import histogram_match, mask_alone
from benchmarks.translation.record import add_data_argument, machine, versions, write
from benchmarks.translation.task import TASKS, load_task
from plasticine.cli.progress import progress
from plasticine.metrics import evaluate_translation
from plasticine.translation import Trace, Translator


def score(translated: torch.Tensor, data: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The figures of one translation."""
    result = evaluate_translation(translated, data["truth"], mask=data["mask"], erosion=4)
    return dataclasses.asdict(result)


def measure(
    translator: Translator,
    data: dict[str, torch.Tensor],
    samples: int,
    every: int,
    **sampling: Any,
) -> tuple[dict[str, Any], dict[str, Trace]]:
    """All figures, and the traces of the single samples.

    Args:
        translator: of the model.
        data: ``Task.test``.
        samples: of the mean.
        every: take every n-th slice.
        sampling: what ``Translator.translate`` takes besides, such as ``steps``.
    """
    data = {name: images[::every] if name != "target" else images for name, images in data.items()}
    source, mask, target = data["source"], data["mask"], data["target"]
    figures: dict[str, Any] = {
        "identity": score(source, data),
        "mask alone": score(mask_alone(mask, target), data),
        "histogram matching": score(histogram_match(source, mask, target, inverted=False), data),
        "inverted histogram matching": score(
            histogram_match(source, mask, target, inverted=True), data
        ),
    }
    traces = {}
    for deform, count in ((False, 1), (True, 1), (False, samples), (True, samples)):
        name = f"{'with φ, pulled back' if deform else 'without deformation'}, samples {count}"
        with progress(name) as advance:
            trace = translator.translate(
                source, deform=deform, samples=count, **sampling, progress=advance
            )
        figures[name] = score(trace.translated_in_source(), data) | {
            "folds": int(trace.folding.folds.sum()),
            "folding_scheme": trace.folding.scheme,
            "folding_region": trace.folding.region,
            "mean_displacement_voxels": trace.displacement.norm(dim=1).mean().item(),
            "inverse_consistency_voxels": trace.inverse_consistency.mean().item(),
            "sd_log_jacobian": trace.folding.sd_log_jacobian.mean().item(),
            "structure_agreement": trace.structure_agreement.mean().item(),
            "seconds": trace.seconds,
        }
        traces.setdefault("deformed" if deform else "still", trace)
    return figures, traces


def draw(
    task: str, traces: dict[str, Trace], data: dict[str, torch.Tensor], every: int, path: Path
) -> None:
    """Source, truth and translations of six slices."""
    source, target = task.split("-")
    truth = data["truth"][::every]
    rows = np.linspace(0.1, 0.9, 6) * len(truth)
    still, moved = traces["still"], traces["deformed"]
    columns = {
        source: still.source,
        f"true {target}": truth,
        "translated, φ = id": still.translated,
        "error": (still.translated - truth).abs(),
        f"{source}∘φ": moved.warped,
        "translated with φ": moved.translated,
        "pulled back by φ⁻¹": moved.translated_in_source(),
    }
    figure = Figure(figsize=(2 * len(columns), 2 * len(rows)), layout="tight")
    axes = figure.subplots(len(rows), len(columns))
    for line, row in zip(axes, rows, strict=True):
        for axis, (title, images) in zip(line, columns.items(), strict=True):
            shown = {"cmap": "magma", "vmax": 0.3} if title == "error" else {"cmap": "gray"}
            axis.imshow(images[int(row), 0], vmin=0, **({"vmax": 1} | shown))
            axis.set_axis_off()
            if row == rows[0]:
                axis.set_title(title)
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="brain-t1-t2", help="shipped name or file")
    parser.add_argument("--task", choices=TASKS, default="T1-T2")
    parser.add_argument("--precision", default="float32", help="of the denoiser")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--steps", type=int, help="of a sample; the model's own if not given")
    parser.add_argument(
        "--mirror",
        action=argparse.BooleanOptionalAction,
        help="every second pair of samples; the model's own if not given",
    )
    parser.add_argument("--every", type=int, default=1, help="take every n-th slice")
    add_data_argument(parser)
    arguments = parser.parse_args()
    matplotlib.use("Agg")
    arguments.output.mkdir(parents=True, exist_ok=True)
    data = load_task(arguments.task, arguments.data).test
    translator = Translator.load(arguments.model)
    sampling = {name: getattr(arguments, name) for name in ("steps", "mirror", "precision")}
    figures, traces = measure(translator, data, arguments.samples, arguments.every, **sampling)
    draw(arguments.task, traces, data, arguments.every, arguments.output / "held_out.png")
    record = {
        "task": arguments.task,
        "model": Path(arguments.model).stem,
        "trained": {key: translator.card[key] for key in ("seed", "data", "training_steps")},
        "samples": arguments.samples,
        "sampling": {name: traces["still"].arguments[name] for name in sampling},
        "patient": "07, every slice" if arguments.every == 1 else f"07, each {arguments.every}th",
        "machine": machine(),
        "versions": versions(),
        "figures": figures,
    }
    write(arguments.output / "held_out.json", record)
    for name, values in figures.items():
        folds = "-"
        if "folds" in values:
            folds = (
                f"{values['folds']} (J <= 0, {values['folding_scheme']} differences, "
                f"{values['folding_region']} region)"
            )
        print(
            f"{name:40s} PSNR {values['psnr']:.2f} SSIM {values['ssim']:.3f}  inside: "
            f"SSIM {values['ssim_inside']:.3f} "
            f"correlation {values['correlation_inside']:.3f}  "
            f"folds {folds}"
        )


if __name__ == "__main__":
    main()
