"""A comparison's data: which images a method may learn from, and what it is judged by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from plasticine.training.data import crop_to

DATA = "brain_t1_t2_flair/slices_2mm_112px.npz"
FOREGROUND = 12 / 255
"""Intensity above which a voxel is brain."""

TASKS = ("T1-T2", "T2-T1", "FLAIR-T2", "T1-FLAIR")
CROP = (96, 80)
TRAINING, TEST = ("19", "26"), "07"


@dataclass(frozen=True)
class Task:
    """The images of one translation.

    Attributes:
        name: as "T1-T2", source first.
        source: (n, 1, *CROP) within [-1, 1], training images of the source domain.
        target: (m, 1, *CROP), likewise; the two are shuffled apart and say nothing of pairs.
        pairs: (source, target), each (p, 1, *CROP): true pairs, for the bounds alone.
        test: "source", "truth" and "mask" of the held-out patient and "target", the training
            images of the target domain, each (N, 1, height, width) within [0, 1].
        data: in words, what the methods learned from.
    """

    name: str
    source: Tensor
    target: Tensor
    pairs: tuple[Tensor, Tensor]
    test: dict[str, Tensor]
    data: str


def load_task(name: str, folder: Path, *, strict: bool = False, seed: int = 0) -> Task:
    """Read the images of a task.

    Args:
        name: one of ``TASKS``.
        folder: the data folder.
        strict: the source domain is of one patient and the target domain of the other, so that
            nobody is seen in both.
        seed: of the shuffle.

    Raises:
        ValueError: no such task.
        FileNotFoundError: the data is not there.
    """
    if name not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}; got {name!r}")
    if not (folder / DATA).is_file():
        raise FileNotFoundError(f"no data at {folder / DATA}: set PLASTICINE_DATA to its folder")
    with np.load(folder / DATA) as archive:
        images = {key: torch.from_numpy(archive[key]).float()[:, None] / 255 for key in archive}
    source, target = name.split("-")
    of_source, of_target = (TRAINING[:1], TRAINING[1:]) if strict else (TRAINING, TRAINING)

    def stack(domain: str, patients: tuple[str, ...]) -> Tensor:
        return torch.cat([images[f"{domain}_{patient}"] for patient in patients])

    held_out = images[f"{source}_{TEST}"]
    mask = np.stack([ndimage.binary_fill_holes(image > FOREGROUND) for image in held_out[:, 0]])
    targets = stack(target, of_target)
    generator = torch.Generator().manual_seed(seed)
    return Task(
        name=name,
        source=_shuffled(to_network(stack(source, of_source)), generator),
        target=_shuffled(to_network(targets), generator),
        pairs=(to_network(stack(source, TRAINING)), to_network(stack(target, TRAINING))),
        test={
            "source": held_out,
            "truth": images[f"{target}_{TEST}"],
            "mask": torch.from_numpy(mask)[:, None],
            "target": targets,
        },
        data=(
            f"{source} of {' and '.join(of_source)}, {target} of {' and '.join(of_target)}, "
            f"unpaired; the bounds: pairs of {' and '.join(TRAINING)}"
        ),
    )


def some_slices(test: dict[str, Tensor], every: int, first: int | None = None) -> dict[str, Tensor]:
    """Every n-th slice of a task's held-out patient.

    Args:
        test: ``Task.test``.
        every: n.
        first: the slice to begin with; None begins with half of n.

    Returns:
        "source", "truth" and "mask" of these slices.
    """
    begin = every // 2 if first is None else first
    return {name: test[name][begin::every] for name in ("source", "truth", "mask")}


def to_network(images: Tensor) -> Tensor:
    """(N, 1, height, width) within [0, 1] to the middle of them, (N, 1, *CROP) within [-1, 1]."""
    return 2 * crop_to(images, CROP) - 1


def from_network(images: Tensor, size: torch.Size) -> Tensor:
    """(N, 1, *CROP) within [-1, 1] to (N, 1, *size) within [0, 1], 0 around it."""
    images = (images.clamp(-1, 1) + 1) / 2
    before = [(n - cut) // 2 for n, cut in zip(size, images.shape[2:], strict=True)]
    after = [n - cut - b for n, cut, b in zip(size, images.shape[2:], before, strict=True)]
    return functional.pad(images, (before[1], after[1], before[0], after[0]))


def _shuffled(images: Tensor, generator: torch.Generator) -> Tensor:
    return images[torch.randperm(len(images), generator=generator)]
