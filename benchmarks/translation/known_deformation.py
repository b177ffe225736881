"""How well φ finds a deformation that is known, with a reference and without.

    PLASTICINE_DATA=... python -m benchmarks.translation.known_deformation

T1 slices of patient 07, which the shipped model has not seen, are warped by ψ⁻¹ and translated. The
true T2 slice, unwarped, is the reference, so φ should be ψ: end-point errors are φ's from ψ in the
brain of the reference. Tissue labels of the T1 slice (multi-Otsu in the brain) are carried by φ and
compared, by Dice, with those before the warp. As a user carries them, warped with the slice and
then carried back, they are sampled twice by nearest neighbour, which leaves those carried by ψ
itself below 1. Carried by ψ⁻¹∘φ they are sampled once, and what is missing is the error of φ.

ψ = exp(s v): v is white noise smoothed by a Gaussian of σ voxels, each of ``--sigmas`` in turn; s
is set so that ψ moves the brain by ``--mean`` voxels on average. Of ``--candidates`` such fields,
those that fold or send part of the brain out of the image are left out, and the one whose largest
displacement in the brain is nearest to ``--largest`` is taken.

Writes ``benchmarks/results/known_deformation.json`` and ``docs/known_deformation.png``.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from rich.progress import Progress
from torch import Tensor

from benchmarks.translation.held_out import score
from benchmarks.translation.record import (
    add_shared_arguments,
    machine,
    versions,
    write,
)
from benchmarks.translation.task import load_task, some_slices
from plasticine import compose, exponential, folding, gaussian_smooth, jacobian_determinant, warp
from plasticine.cli.progress import progress
from plasticine.metrics import dice, end_point_error_map
from plasticine.nn.validity import validity_mask
from plasticine.registration.velocity import REFINEMENT
from plasticine.structure import MultiOtsu
from plasticine.translation import Trace, Translator

PICTURE = Path(__file__).parents[2] / "docs" / "known_deformation.png"
FEWEST_VOXELS = 800
"""Of brain in a slice that is used."""
DRAWN = ("every", "first", "mean", "largest", "candidates", "seed")
OPTIMISED = "reference, instance optimisation"
CLASSES = 4
"""Of tissue, the darkest of them fluid."""


def in_brain(displacement: Tensor, brain: Tensor) -> Tensor:
    """Lengths of a displacement within the brain, (voxels,)."""
    return torch.linalg.vector_norm(displacement, dim=1, keepdim=True)[brain]


def scaled_to_mean(velocity: Tensor, brain: Tensor, mean: float) -> Tensor:
    """s v, such that exp(s v) moves the brain by ``mean`` voxels on average."""
    for _ in range(12):
        found = in_brain(exponential(velocity), brain).mean()
        velocity = velocity * (mean / found)
    return velocity


def known_velocity(
    brain: Tensor, sigma: float, generator: torch.Generator, arguments: argparse.Namespace
) -> Tensor:
    """The velocity of one slice's ψ.

    Args:
        brain: (1, 1, height, width) bool.
        sigma: of the Gaussian, voxels.
        generator: of the noise.
        arguments: the script's own.

    Returns:
        (1, 2, height, width) voxels.

    Raises:
        RuntimeError: every candidate folded or left the image.
    """
    best: tuple[float, Tensor] | None = None
    for _ in range(arguments.candidates):
        noise = torch.randn(1, 2, *brain.shape[2:], generator=generator)
        velocity = scaled_to_mean(gaussian_smooth(noise, sigma), brain, arguments.mean)
        u, inverse = exponential(velocity, inverse=True)
        if any(int(folding(field).folds) for field in (u, inverse)):
            continue
        if not validity_mask(u)[brain].all():
            continue
        away = abs(in_brain(u, brain).max().item() - arguments.largest)
        if best is None or away < best[0]:
            best = away, velocity
    if best is None:
        raise RuntimeError(f"all {arguments.candidates} candidates folded or left the image")
    return best[1]


def tissue_labels(images: Tensor, brain: Tensor) -> Tensor:
    """1 to ``CLASSES`` from dark to bright within the brain and 0 around it, int64."""
    clusters = MultiOtsu(2, CLASSES)(2 * images - 1).argmax(1, keepdim=True)
    return (clusters + 1) * brain


def moved_labels(labels: Tensor, displacement: Tensor) -> Tensor:
    """The label nearest to where each voxel comes from."""
    return warp(labels.double(), displacement.double(), mode="nearest").long()


def mean_dice(first: Tensor, second: Tensor) -> float:
    """The mean of the classes' Dice coefficients, each over all slices together."""
    return statistics.fmean(dice(first, second, labels=range(1, CLASSES + 1)).values())


@dataclass(frozen=True)
class Warped:
    """Slices warped by a known ψ⁻¹.

    Attributes:
        moving: (N, 1, height, width), x∘ψ⁻¹.
        displacement: (N, 2, height, width) voxels, that of ψ.
        inverse_displacement: likewise, that of ψ⁻¹.
        labels: (N, 1, height, width), the tissue of x.
        moving_labels: (N, 1, height, width), labels∘ψ⁻¹.
    """

    moving: Tensor
    displacement: Tensor
    inverse_displacement: Tensor
    labels: Tensor
    moving_labels: Tensor


def warped_slices(data: dict[str, Tensor], sigma: float, arguments: argparse.Namespace) -> Warped:
    """Draw a ψ for each slice and warp it."""
    generator = torch.Generator().manual_seed(arguments.seed)
    velocities = []
    with Progress() as bar:
        for brain in bar.track(data["mask"], description="drawing deformations"):
            velocities.append(known_velocity(brain[None], sigma, generator, arguments))
    u, inverse = exponential(torch.cat(velocities), inverse=True)
    labels = tissue_labels(data["source"], data["mask"])
    return Warped(
        moving=warp(data["source"], inverse),
        displacement=u,
        inverse_displacement=inverse,
        labels=labels,
        moving_labels=moved_labels(labels, inverse),
    )


def describe(warped: Warped, brain: Tensor) -> dict[str, Any]:
    """What ψ is like, and what its own labels are worth."""
    found, jacobian = folding(warped.displacement), jacobian_determinant(warped.displacement)
    largest = [
        in_brain(warped.displacement[i : i + 1], brain[i : i + 1]).max().item()
        for i in range(len(brain))
    ]
    carried = moved_labels(warped.moving_labels, warped.displacement)
    return {
        "mean_displacement_in_the_brain": in_brain(warped.displacement, brain).mean().item(),
        "largest_displacement_of_each_slice": largest,
        "folds": int(found.folds.sum()),
        "jacobian_range_in_the_brain": [value.item() for value in jacobian[brain].aminmax()],
        "sd_log_jacobian": found.sd_log_jacobian.mean().item(),
        "dice_of_labels_carried_by_it": mean_dice(carried, warped.labels),
        "dice_of_labels_left_in_place": mean_dice(warped.moving_labels, warped.labels),
    }


def figures(trace: Trace, warped: Warped, data: dict[str, Tensor]) -> dict[str, Any]:
    """The figures of one translation of the warped slices."""
    truth, brain = warped.displacement, data["mask"]
    errors = end_point_error_map(trace.displacement, truth)
    against = score(trace.translated, data)
    carried = trace.labels_to_target(warped.moving_labels)
    of_psi = moved_labels(warped.moving_labels, truth)
    once = moved_labels(warped.labels, compose(warped.inverse_displacement, trace.displacement))
    return {
        "end_point_error_voxels": errors[brain].mean().item(),
        "end_point_error_95th_percentile": float(np.percentile(errors[brain], 95)),
        "end_point_error_of_each_slice": [
            each[inside].mean().item() for each, inside in zip(errors, brain, strict=True)
        ],
        "dice": mean_dice(carried, warped.labels),
        "dice_sampled_once": mean_dice(once, warped.labels),
        "dice_of_the_brain": dice(carried > 0, warped.labels > 0)[1],
        "dice_with_labels_carried_by_the_known": mean_dice(carried, of_psi),
        "folds": int(trace.folding.folds.sum()),
        "inverse_consistency_voxels": trace.inverse_consistency.mean().item(),
        "inverse_consistency_in_the_brain": trace.inverse_consistency[brain].mean().item(),
        "sd_log_jacobian": trace.folding.sd_log_jacobian.mean().item(),
        "psnr_inside": against["psnr_inside"],
        "ssim_inside": against["ssim_inside"],
        "seconds": trace.seconds,
    }


def measure(
    translator: Translator, warped: Warped, data: dict[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Trace]]:
    """Figures and trace of each way to find φ."""
    ways: dict[str, dict[str, Any]] = {
        "x alone": {},
        "reference": {"reference": data["truth"]},
        OPTIMISED: {
            "reference": data["truth"],
            "optimise": REFINEMENT,
        },
    }
    found, traces = {}, {}
    for name, options in ways.items():
        with progress(name) as advance:
            traces[name] = translator.translate(warped.moving, progress=advance, **options)
        found[name] = figures(traces[name], warped, data)
    return found, traces


def draw(traces: dict[str, Trace], warped: Warped, data: dict[str, Tensor], path: Path) -> None:
    """Four slices: what was warped, what it was registered to, and what came of it."""
    rows = np.linspace(0.1, 0.9, 4) * len(warped.moving)
    network, best = traces["reference"], traces[OPTIMISED]
    errors = [
        end_point_error_map(trace.displacement, warped.displacement).masked_fill(~data["mask"], 0)
        for trace in (network, best)
    ]
    columns = {
        "warped T1, x": warped.moving,
        "reference T2": data["truth"],
        "x∘φ, network": network.warped,
        "x∘φ, optimised": best.warped,
        "T1 before the warp": data["source"],
        "ŷ, optimised": best.translated,
        "error, network": errors[0],
        "error, optimised": errors[1],
    }
    figure = Figure(figsize=(2 * len(columns), 2 * len(rows)), layout="tight")
    axes = figure.subplots(len(rows), len(columns))
    for line, row in zip(axes, rows, strict=True):
        for axis, (title, images) in zip(line, columns.items(), strict=True):
            error = title.startswith("error")
            shown = axis.imshow(
                images[int(row), 0],
                vmin=0,
                vmax=5 if error else 1,
                cmap="magma" if error else "gray",
            )
            axis.set_axis_off()
            if row == rows[0]:
                axis.set_title(title, fontsize=10)
            if error:
                figure.colorbar(shown, ax=axis, fraction=0.046, label="voxels")
    figure.savefig(path, dpi=70)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_shared_arguments(parser, "known_deformation", every=8)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--first", type=int, help="slice to begin with; half of --every otherwise")
    parser.add_argument("--mean", type=float, default=6.0, help="displacement, voxels")
    parser.add_argument("--largest", type=float, default=15.0, help="displacement, voxels")
    parser.add_argument("--sigmas", type=float, nargs="+", default=[20.0, 12.0], help="voxels")
    parser.add_argument("--candidates", type=int, default=24, help="drawn for a slice")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    matplotlib.use("Agg")
    data = some_slices(load_task("T1-T2", arguments.data).test, arguments.every, arguments.first)
    large = data["mask"].flatten(1).sum(1) >= FEWEST_VOXELS
    data = {name: images[large] for name, images in data.items()}
    translator = Translator.load(arguments.model)
    record: dict[str, Any] = {
        "model": arguments.model,
        "slices": f"patient 07, {int(large.sum())} of {len(large)} slices: enough brain",
        **{name: getattr(arguments, name) for name in DRAWN},
        "machine": machine(),
        "versions": versions(),
        "sigmas": {},
    }
    for sigma in arguments.sigmas:
        warped = warped_slices(data, sigma, arguments)
        found, traces = measure(translator, warped, data)
        known = describe(warped, data["mask"])
        record["sigmas"][f"{sigma:g} voxels"] = {"known": known, "figures": found}
        if sigma == arguments.sigmas[0]:
            record["optimisation"] = traces[OPTIMISED].arguments["optimise"]
            draw(traces, warped, data, arguments.picture)
        print(f"σ {sigma:g}: {known}")
        for name, values in found.items():
            shown = [f"{key} {v:.3g}" for key, v in values.items() if not isinstance(v, list)]
            print(f"  {name}: {'  '.join(shown)}", flush=True)
    write(arguments.output, record)


if __name__ == "__main__":
    main()
