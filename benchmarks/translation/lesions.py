"""What becomes of lesions: whether they are kept, and whether any is invented elsewhere.

    PLASTICINE_DATA=... python -m benchmarks.translation.lesions

Translates the T1 volume of patient 07, which the shipped model has not seen, with its φ, and asks
two things on the model's grid.

Kept: each lesion (26-connected, at least ``--least`` voxels) against the ring of 3 voxels around it
in its slices, free of other lesions and within the brain, in standard deviations of the ring: in x,
in the true T2, and in ŷ at the place that φ carries the lesion to.

Invented: within white matter (the brightest of three classes of T1 in the brain, with the lesions,
eroded by one voxel in the slice), blobs of at least ``--least`` voxels brighter than a threshold,
counted in deviations (1.4826 × the median absolute one) from the median of the white matter
outside lesions. The threshold is the one whose blobs in the true T2 have the best Dice with the
lesion mask; it is applied to ŷ as it is, and to 1 - x. A blob that touches no lesion (dilated by
two) is false, and unsupported where it touches none of the blobs in the true T2 either.

Writes ``benchmarks/results/lesions.json`` and ``docs/lesions.png``.
"""

from __future__ import annotations

import argparse
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import ndimage
from torch import Tensor

from benchmarks.translation.record import RESULTS, add_data_argument, machine, versions, write
from benchmarks.translation.task import FOREGROUND
from plasticine.cli.progress import progress
from plasticine.io import model_images, read_volume
from plasticine.io.translate import SLICE_SMOOTHING
from plasticine.metrics import dice, dilate, erode, lesion_contrast
from plasticine.structure import MultiOtsu
from plasticine.translation import Trace, Translator

FOLDER = "brain_t1_t2_flair"
PICTURE = Path(__file__).parents[2] / "docs" / "lesions.png"
RING = 3
THRESHOLDS = np.arange(1.0, 8.01, 0.25)
NEAR = 2
"""Voxels within which a blob touches."""


@dataclass(frozen=True)
class Patient:
    """The volume on the model's grid, every tensor (slices, 1, rows, columns).

    Attributes:
        source: T1 within [0, 1].
        truth: the true T2 within [0, 1].
        lesions: int64, the number of each lesion of at least the least size, 0 elsewhere.
        any_lesion: bool, of any size.
        brain: bool.
        matter: bool, the white matter with the lesions.
    """

    source: Tensor
    truth: Tensor
    lesions: Tensor
    any_lesion: Tensor
    brain: Tensor
    matter: Tensor

    def carried(self, trace: Trace, truth: Tensor) -> Patient:
        """The same in the space of ŷ, whose image takes the place of the true one."""
        carry = trace.labels_to_target
        return Patient(
            trace.warped,
            truth,
            carry(self.lesions),
            carry(self.any_lesion),
            carry(self.brain),
            carry(self.matter),
        )


def components(mask: Tensor, least: int) -> Tensor:
    """26-connected components of at least ``least`` voxels, numbered from 1."""
    numbered, count = ndimage.label(mask[:, 0].numpy(), structure=np.ones((3, 3, 3)))
    sizes = np.bincount(numbered.ravel(), minlength=count + 1)
    kept = np.flatnonzero(sizes[1:] >= least) + 1
    renumbered = np.zeros(count + 1, np.int64)
    renumbered[kept] = np.arange(1, len(kept) + 1)
    return torch.from_numpy(renumbered[numbered])[:, None]


def load_patient(translator: Translator, folder: Path, least: int) -> Patient:
    """Read T1, T2 and lesions of patient 07 onto the model's grid, as a translation would."""
    laid = model_images(read_volume(folder / "patient07_T1.nii.gz"), translator.card)
    any_lesion = laid.labels(folder / "patient07_lesions.nii.gz")[0] > 0
    filled = [ndimage.binary_fill_holes(image > FOREGROUND) for image in laid.images[:, 0].numpy()]
    brain = torch.from_numpy(np.stack(filled))[:, None]
    # One histogram for all slices; background is the darkest of four classes.
    long = (2 * laid.images - 1).reshape(1, 1, -1, laid.images.shape[3])
    classes = MultiOtsu(2, 4)(long).argmax(1).reshape(laid.images.shape)
    matter = erode(((classes == 3) | any_lesion) & brain, 1)
    return Patient(
        laid.images,
        laid.reference(folder / "patient07_T2.nii.gz")[0],
        components(any_lesion, least),
        any_lesion,
        brain,
        matter,
    )


def contrasts(image: Tensor, patient: Patient) -> list[float]:
    """The contrast of each lesion; NaN where φ left nothing of it."""
    found = []
    for number in range(1, int(patient.lesions.max()) + 1):
        lesion = patient.lesions == number
        slices = lesion.flatten(1).any(1)
        free = patient.brain & (~patient.any_lesion | lesion)
        found.append(lesion_contrast(image[slices], lesion[slices], mask=free[slices], width=RING))
    return found


def deviations(image: Tensor, patient: Patient) -> Tensor:
    """How far each voxel lies from the white matter's median, in its robust deviations."""
    healthy = image[patient.matter & ~dilate(patient.any_lesion, NEAR)]
    middle = healthy.median()
    return (image - middle) / (1.4826 * (healthy - middle).abs().median())


def bright_blobs(image: Tensor, patient: Patient, threshold: float, least: int) -> Tensor:
    """Numbered blobs of the white matter brighter than the threshold, deviations."""
    return components((deviations(image, patient) > threshold) & patient.matter, least)


def best_threshold(image: Tensor, patient: Patient, least: int) -> tuple[float, float]:
    """The threshold whose blobs overlap most with the lesions in white matter, and their Dice."""
    truth = patient.any_lesion & patient.matter
    scores = [
        dice(bright_blobs(image, patient, float(threshold), least) > 0, truth)[1]
        for threshold in THRESHOLDS
    ]
    best = int(np.nanargmax(scores))
    return float(THRESHOLDS[best]), scores[best]


def blob_figures(blobs: Tensor, patient: Patient, supported: Tensor) -> dict[str, Any]:
    """Counts of blobs by what they touch, and how many lesions they find.

    Args:
        blobs: numbered.
        patient: in the blobs' space.
        supported: bool, the blobs of the true T2.
    """

    def touching(near: Tensor) -> set[int]:
        return set(blobs[dilate(near, NEAR)].unique().tolist()) - {0}

    every = set(range(1, int(blobs.max()) + 1))
    false = every - touching(patient.any_lesion)
    invented = false - touching(supported)
    visible = set(patient.lesions[patient.matter].unique().tolist()) - {0}
    found = set(patient.lesions[blobs > 0].unique().tolist()) - {0}

    def voxels(numbers: set[int]) -> int:
        return int(torch.isin(blobs, torch.tensor(sorted(numbers), dtype=blobs.dtype)).sum())

    return {
        "blobs": len(every),
        "false": len(false),
        "false_voxels": voxels(false),
        "unsupported_by_the_true_T2": len(invented),
        "unsupported_voxels": voxels(invented),
        "lesions_in_white_matter": len(visible),
        "lesions_found": len(found),
    }


def middle(values: list[float]) -> dict[str, float]:
    """Median and quartiles of those that are numbers."""
    low, median, high = statistics.quantiles([v for v in values if not math.isnan(v)], n=4)
    return {"median": median, "lower_quartile": low, "upper_quartile": high}


def measure(trace: Trace, patient: Patient, least: int) -> tuple[dict[str, Any], Patient, Tensor]:
    """All figures, the patient in ŷ's space, and the blobs of ŷ."""
    moved = patient.carried(trace, trace.translated)
    of = {
        "x": contrasts(patient.source, patient),
        "true T2": contrasts(patient.truth, patient),
        "ŷ": contrasts(trace.translated, moved),
    }
    both = [
        (a, b)
        for a, b in zip(of["true T2"], of["ŷ"], strict=True)
        if not (math.isnan(a) or math.isnan(b))
    ]
    bright = [(a, b) for a, b in both if a > 0]
    threshold, overlap = best_threshold(patient.truth, patient, least)
    true_blobs = bright_blobs(patient.truth, patient, threshold, least)
    blobs = bright_blobs(trace.translated, moved, threshold, least)
    supported = true_blobs > 0
    figures = {
        "lesions": int(patient.lesions.max()),
        "lesions_compared": len(both),
        "contrast": {name: middle(values) for name, values in of.items()},
        "share_with_the_sign_of_true_T2": statistics.fmean(a * b > 0 for a, b in both),
        "bright_in_true_T2": len(bright),
        "of_these_bright_in_ŷ": sum(b > 0 for _, b in bright),
        "of_these_at_least_half_as_bright_in_ŷ": sum(b >= a / 2 for a, b in bright),
        "correlation_of_contrasts": statistics.correlation(*zip(*both, strict=True)),
        "contrast_of_each": of,
        "voxels_of_each": [
            int((patient.lesions == n).sum()) for n in range(1, int(patient.lesions.max()) + 1)
        ],
        "threshold": threshold,
        "dice_of_the_detector_on_true_T2": overlap,
        "blobs": {
            "true T2": blob_figures(true_blobs, patient, supported),
            "1 - x": blob_figures(
                bright_blobs(1 - patient.source, patient, threshold, least), patient, supported
            ),
            "ŷ": blob_figures(blobs, moved, trace.labels_to_target(supported)),
        },
        "folds": int(trace.folding.folds.sum()),
        "mean_displacement_voxels": trace.displacement.norm(dim=1).mean().item(),
        "seconds": trace.seconds,
    }
    return figures, moved, blobs


def draw(patient: Patient, moved: Patient, blobs: Tensor, path: Path) -> None:
    """The three slices with most lesion, outlines of lesions and of false blobs."""
    area = patient.lesions.clamp_max(1).flatten(1).sum(1)
    rows: list[int] = []
    for index in area.argsort(descending=True).tolist():
        if all(abs(index - other) > 8 for other in rows):
            rows.append(index)
        if len(rows) == 3:
            break
    touched = blobs[dilate(moved.any_lesion, NEAR)].unique()
    false = (blobs > 0) & ~torch.isin(blobs, touched)
    columns = (
        ("T1, x", patient.source, patient.any_lesion),
        ("true T2", patient.truth, patient.any_lesion),
        ("ŷ", moved.truth, None),
        ("ŷ, lesions at φ (red), false blobs (blue)", moved.truth, moved.any_lesion),
    )
    figure = Figure(figsize=(3 * len(columns), 3 * len(rows)), layout="tight")
    axes = figure.subplots(len(rows), len(columns))
    for line, row in zip(axes, sorted(rows), strict=True):
        for axis, (title, images, outline) in zip(line, columns, strict=True):
            axis.imshow(images[row, 0], vmin=0, vmax=1, cmap="gray")
            if outline is not None and outline[row].any():
                axis.contour(outline[row, 0], [0.5], colors="red", linewidths=0.8)
            if "false" in title and false[row].any():
                axis.contour(false[row, 0], [0.5], colors="deepskyblue", linewidths=0.8)
            axis.set_axis_off()
            if row == min(rows):
                axis.set_title(title, fontsize=9)
    figure.savefig(path, dpi=60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="brain-t1-t2", help="shipped name or file")
    parser.add_argument("--output", type=Path, default=RESULTS / "lesions.json")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--least", type=int, default=10, help="voxels of a lesion or blob")
    parser.add_argument("--samples", type=int, default=1)
    add_data_argument(parser)
    arguments = parser.parse_args()
    matplotlib.use("Agg")
    folder = arguments.data / FOLDER
    translator = Translator.load(arguments.model)
    patient = load_patient(translator, folder, arguments.least)
    with progress("translating the volume") as advance:
        trace = translator.translate(
            patient.source,
            samples=arguments.samples,
            slice_smoothing=SLICE_SMOOTHING,  # the slices lie 1 mm apart
            progress=advance,
        )
    figures, moved, blobs = measure(trace, patient, arguments.least)
    draw(patient, moved, blobs, arguments.picture)
    record = {
        "model": arguments.model,
        "patient": "07, the volume",
        "images": list(patient.source.shape),
        "least_voxels": arguments.least,
        "samples": arguments.samples,
        "machine": machine(),
        "versions": versions(),
        "figures": figures,
    }
    write(arguments.output, record)
    for name, value in figures.items():
        if not name.endswith("_of_each"):
            print(f"{name}: {value}")


if __name__ == "__main__":
    main()
