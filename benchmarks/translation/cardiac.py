"""Failing hearts made normal: does ŷ show the ventricle that φ says, and is it a normal one?

    PLASTICINE_DATA=... python -m benchmarks.translation.cardiac --output FOLDER

Trains the recipe ``cardiac-population`` into the folder, or takes the model that is there (or
``--model``), and a segmenter of the left ventricle on the normal hearts. Then, on the failing
hearts, those of the patients that the recipe holds out beside the others:

- the Dice of each labelled ventricle, carried by φ, with what the segmenter finds in ŷ, by image
  and by patient;
- how far the areas of the ventricles lie from those of normal hearts, before and after: the
  Wasserstein distance of the two distributions, in pixels;
- folds, inverse consistency and SDlogJ of φ.

Writes ``cardiac.json`` and ``cardiac.png``.
"""

from __future__ import annotations

import argparse
import math
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import wasserstein_distance
from torch import Tensor, nn

from benchmarks.translation.learning import Budget, Draw, SingleLoss, train
from benchmarks.translation.record import add_data_argument, machine, versions, write
from benchmarks.translation.segmenter import (
    DEFORMATION,
    NETWORK,
    SegmentationLoss,
    Segmenter,
    segment,
)
from plasticine.cli.progress import progress, training_progress
from plasticine.metrics import dice, surface_distance
from plasticine.training import load_recipe
from plasticine.training import train as train_model
from plasticine.training.data import crop_to
from plasticine.training.recipe import Recipe
from plasticine.translation import Trace, Translator

RECIPE = "cardiac-population"


@dataclass(frozen=True)
class Hearts:
    """The labelled images of a population.

    Attributes:
        images: (n, 1, *spatial) within [0, 1].
        ventricle: (n, 1, *spatial) bool, the blood pool of the left one.
        patient: (n,) integers, one for each patient.
        held_out: (n,) bool, of a patient whom no training has seen.
    """

    images: Tensor
    ventricle: Tensor
    patient: Tensor
    held_out: Tensor

    def of(self, chosen: Tensor) -> Hearts:
        """Those where ``chosen``, (n,) bool, is true."""
        return Hearts(
            self.images[chosen], self.ventricle[chosen], self.patient[chosen], self.held_out[chosen]
        )


def load_hearts(recipe: Recipe, folder: Path, population: str) -> Hearts:
    """Read "failing" or "normal", cut as the recipe cuts them."""
    data = recipe.data
    assert data.file is not None
    assert data.maximum is not None
    with np.load(folder / data.file) as archive:
        images = torch.from_numpy(archive[population]).float()[:, None] / data.maximum
        ventricle = torch.from_numpy(archive[f"{population}_lv_mask"])[:, None] > 0
        names, patient = np.unique(archive[f"{population}_patient"], return_inverse=True)
    return Hearts(
        crop_to(images, data.crop),
        crop_to(ventricle, data.crop),
        torch.from_numpy(patient),
        torch.from_numpy(np.isin(names, data.held_out or ())[patient]),
    )


def areas(masks: Tensor) -> list[int]:
    """Pixels of each mask."""
    return masks.flatten(1).sum(1).tolist()


def overlap(carried: Tensor, found: Tensor, patient: Tensor) -> dict[str, float | None]:
    """Agreement of two stacks of masks: by image, by patient, and of all pixels together.

    Surfaces are compared where both have one; None where none has.
    """

    def of(first: Tensor, second: Tensor) -> float:
        return dice(first.int(), second.int(), labels=[1])[1]

    each = [of(a, b) for a, b in zip(carried, found, strict=True)]
    of_patients = [of(carried[patient == i], found[patient == i]) for i in patient.unique()]
    apart = [
        surface_distance(a[0], b[0], labels=[1])[1]
        for a, b in zip(carried.int(), found.int(), strict=True)
        if a.any() and b.any()
    ]
    return {
        "dice_mean": statistics.fmean(each),
        "dice_median": statistics.median(each),
        "dice_least": min(each),
        "dice_patient_mean": statistics.fmean(of_patients),
        "dice_patient_least": min(of_patients),
        "dice_of_all_pixels": of(carried, found),
        "hd95_pixels": statistics.fmean(d.hd95 for d in apart) if apart else None,
        "assd_pixels": statistics.fmean(d.assd for d in apart) if apart else None,
        "images_without_a_ventricle": len(each) - len(apart),
    }


def measure(
    trace: Trace, failing: Hearts, normal: Hearts, network: nn.Module
) -> tuple[dict[str, Any], Tensor, Tensor]:
    """All figures, and the ventricles carried by φ and found in ŷ."""
    carried = trace.labels_to_target(failing.ventricle)
    found = segment(network, trace.translated)
    in_source, in_moved = (segment(network, image) for image in (failing.images, trace.warped))
    length = trace.displacement.norm(dim=1, keepdim=True)
    unseen, target = normal.of(normal.held_out), areas(normal.ventricle)
    figures: dict[str, Any] = {}
    for name, chosen in (
        ("held out", failing.held_out),
        ("trained on", ~failing.held_out),
        ("all", torch.ones_like(failing.held_out)),
    ):
        areas_of = {
            "x, labelled": areas(failing.ventricle[chosen]),
            "labelled, carried by φ": areas(carried[chosen]),
            "ŷ, segmented": areas(found[chosen]),
        }
        figures[name] = {
            "images": int(chosen.sum()),
            **{
                compared: overlap(ventricle[chosen], segmented[chosen], failing.patient[chosen])
                for compared, ventricle, segmented in (
                    ("x: labelled and segmented", failing.ventricle, in_source),
                    ("x∘φ: carried and segmented", carried, in_moved),
                    ("ŷ: carried and segmented", carried, found),
                )
            },
            "mean_area": {k: statistics.fmean(v) for k, v in areas_of.items()},
            "distance_to_normal_areas": {
                k: wasserstein_distance(v, target) for k, v in areas_of.items()
            },
            "distance_to_areas_of_normal_held_out": {
                k: wasserstein_distance(v, areas(unseen.ventricle)) for k, v in areas_of.items()
            },
            "folds": int(trace.folding.folds[chosen].sum()),
            "least_jacobian": trace.jacobian[chosen].min().item(),
            "sd_log_jacobian": trace.folding.sd_log_jacobian[chosen].mean().item(),
            "inverse_consistency_pixels": trace.inverse_consistency[chosen].mean().item(),
            "mean_displacement_pixels": length[chosen].mean().item(),
            "mean_displacement_in_ventricle": length[chosen][carried[chosen]].mean().item(),
            "structure_agreement": _mean(trace.structure_agreement, chosen),
        }
    figures["mean_area_of_normal"] = statistics.fmean(target)
    figures["distance_of_normal_held_out_to_all_normal"] = wasserstein_distance(
        areas(unseen.ventricle), target
    )
    return figures, carried, found


def _mean(values: Tensor | None, chosen: Tensor) -> float:
    return math.nan if values is None else values[chosen].mean().item()


def draw(
    trace: Trace, failing: Hearts, normal: Hearts, carried: Tensor, found: Tensor, path: Path
) -> None:
    """Five hearts of patients held out, and the areas of all."""
    held_out = failing.held_out.nonzero()[:, 0].tolist()
    rows = [held_out[int(share * len(held_out))] for share in (0.02, 0.2, 0.4, 0.6, 0.8)]
    white = trace.source.flatten(1).quantile(0.995, dim=1)
    columns = {
        "failing, x": (trace.source, failing.ventricle, None),
        "x∘φ and the label carried": (trace.warped, carried, None),
        "ŷ, carried (red), segmented (blue)": (trace.translated, carried, found),
    }
    figure = Figure(figsize=(13, 12), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(4, 1.9))
    axes = left.subplots(len(rows), len(columns) + 1)
    for line, row in zip(axes, rows, strict=True):
        for axis, (title, (images, red, blue)) in zip(line, columns.items(), strict=False):
            axis.imshow(images[row, 0].numpy(), cmap="gray", vmin=0, vmax=white[row].item())
            for mask, colour in ((red, "red"), (blue, "deepskyblue")):
                if mask is not None and mask[row].any():
                    axis.contour(mask[row, 0].numpy(), [0.5], colors=colour, linewidths=0.9)
            axis.set_title(title if row == rows[0] else "", fontsize=9)
        growth = trace.jacobian[row, 0].log2().numpy()
        shown = line[-1].imshow(growth, cmap="RdBu_r", vmin=-2, vmax=2)
        line[-1].set_title("log₂ J of φ" if row == rows[0] else "", fontsize=9)
    for axis in axes.flat:
        axis.set_axis_off()
    left.colorbar(shown, ax=axes[:, -1], shrink=0.3)
    bins = np.arange(0, 700, 50)
    panels = right.subplots(3, 1, sharex=True)
    target = areas(normal.ventricle)
    for axis, (title, masks) in zip(
        panels,
        {"x, labelled": failing.ventricle, "carried by φ": carried, "ŷ, segmented": found}.items(),
        strict=True,
    ):
        axis.hist(target, bins, density=True, color="0.75", label="normal")
        axis.hist(areas(masks), bins, density=True, histtype="step", color="red", label=title)
        axis.set_yticks([])
        axis.legend(fontsize=8)
    panels[-1].set_xlabel("area of the left ventricle, pixels; all failing hearts")
    figure.savefig(path, dpi=75)


def trained_segmenter(
    recipe: Recipe, normal: Hearts, budget: Budget, folder: Path, seed: int
) -> tuple[nn.Module, dict[str, Any]]:
    """A segmenter of these normal hearts, and what its training took.

    The failing hearts, and so what it is to judge, it has never seen.
    """
    torch.manual_seed(seed)
    network = Segmenter()
    pairs = Draw((normal.images, normal.ventricle.float()), DEFORMATION, batch=8)
    learner = SingleLoss(network, SegmentationLoss(network, pairs), learning_rate=2e-3, ema=0.995)
    identity = {
        "network": {key: str(value) for key, value in NETWORK.items()},
        "deformation": asdict(DEFORMATION),
        "data": recipe.data.file,
        "images": len(normal.images),
    }
    training = train("segmenter", learner, budget, folder / "segmenter.safetensors", identity, seed)
    return learner.trained(), training


def model_file(given: Path | None, recipe: Recipe, arguments: argparse.Namespace) -> Path:
    """The model given, the one trained earlier, or one trained now."""
    path = given or arguments.output / f"{recipe.name}.safetensors"
    if given is None and not path.is_file():
        with training_progress() as (advance, _):
            train_model(
                recipe,
                arguments.data,
                arguments.output,
                resume=True,
                seed=arguments.seed,
                progress=advance,
            )
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a trained model's file; default: train one")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4500, help="of the segmenter's training")
    parser.add_argument(
        "--patients", type=int, help="whom the segmenter is trained on, the first so many; or all"
    )
    parser.add_argument("--samples", type=int, default=1, help="whose mean is ŷ")
    parser.add_argument("--seed", type=int, default=0)
    add_data_argument(parser)
    arguments = parser.parse_args()
    matplotlib.use("Agg")
    arguments.output.mkdir(parents=True, exist_ok=True)
    recipe = load_recipe(RECIPE)
    failing, normal = (load_hearts(recipe, arguments.data, name) for name in ("failing", "normal"))
    translator = Translator.load(model_file(arguments.model, recipe, arguments))
    taught = normal
    if arguments.patients is not None:
        taught = normal.of(normal.patient < arguments.patients)
    network, training = trained_segmenter(
        recipe, taught, Budget(steps=arguments.steps), arguments.output, arguments.seed
    )
    with progress("translating") as advance:
        trace = translator.translate(
            failing.images,
            samples=arguments.samples,
            seed=arguments.seed,
            progress=advance,
        )
    figures, carried, found = measure(trace, failing, normal, network)
    draw(trace, failing, normal, carried, found, arguments.output / "cardiac.png")
    record = {
        "recipe": RECIPE,
        "held_out": recipe.data.held_out,
        "training": {"model": translator.card["training_steps"], "segmenter": training},
        "segmenter_taught_by": {
            "patients": len(taught.patient.unique()),
            "images": len(taught.images),
        },
        "samples": arguments.samples,
        "seed": arguments.seed,
        "machine": machine(),
        "versions": versions(),
        "seconds": trace.seconds,
        "figures": figures,
    }
    write(arguments.output / "cardiac.json", record)
    for name in ("held out", "trained on", "all"):
        values = figures[name]
        print(
            f"{name}: Dice {values['ŷ: carried and segmented']['dice_mean']:.3f}, area distance "
            + ", ".join(f"{k} {v:.1f}" for k, v in values["distance_to_normal_areas"].items())
            + f", folds {values['folds']}"
        )


if __name__ == "__main__":
    main()
