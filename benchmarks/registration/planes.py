"""The greedy stage on pictures: hearts and retinas, beside picsl-greedy, both from the identity.

    OMP_NUM_THREADS=1 python -m benchmarks.registration.planes [SETTINGS ...]

SETTINGS as for ``benchmarks.registration.deformable``. Prints the mean Dice of the labels (of the
left ventricle, of the layers), the processor's seconds of a pair, and what folds.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
import torch
from PIL import Image
from torch import Tensor

import plasticine
from benchmarks.registration.deformable import settings_of
from plasticine import metrics
from plasticine.registration.greedy import BUDGETS

DATA = Path(os.environ.get("PLASTICINE_DATA", "../shared/data"))
METRIC = "-m NCC 2x2 -n 100x50x10"
Pair = tuple[Tensor, Tensor, Tensor, Tensor]


def hearts(step: int = 12) -> Iterator[Pair]:
    """A failing heart onto a normal one of the same order in its stack."""
    with np.load(DATA / "cardiac_cine" / "slices_128px.npz") as stored:
        for number in range(0, min(len(stored["failing"]), len(stored["normal"])), step):
            both = [stored[name][number] for name in ("failing", "normal")]
            masks = [stored[f"{name}_lv_mask"][number] for name in ("failing", "normal")]
            yield tuple(torch.from_numpy(x.astype(np.float32))[None, None] for x in (*both, *masks))


def retinas() -> Iterator[Pair]:
    """Each of the three onto each other, at half size along the long axis."""

    def read(name: str, kind: str) -> Tensor:
        array = np.array(Image.open(DATA / "oct_layers" / f"{name}_{kind}.png"), np.float32)
        return torch.from_numpy(array)[None, None, ::2].contiguous()

    names = "im00001", "im0100", "im1111"
    for moving, fixed in itertools.permutations(names, 2):
        yield read(moving, "img"), read(fixed, "img"), read(moving, "mask"), read(fixed, "mask")


def peer(moving: Tensor, fixed: Tensor) -> Tensor:
    """The displacement of picsl-greedy, in voxels."""
    from picsl_greedy import Greedy2D

    with tempfile.TemporaryDirectory() as folder:
        for name, image in (("m", moving), ("f", fixed)):
            # Voxels of 1 mm whose axes point as those of ITK do.
            volume = nibabel.Nifti1Image(image[0, 0].numpy(), np.diag([-1.0, -1, 1, 1]))
            nibabel.save(volume, f"{folder}/{name}.nii.gz")
        Greedy2D().execute(
            f"-d 2 -threads 1 -V 0 -i {folder}/f.nii.gz {folder}/m.nii.gz -ia-identity "
            f"{METRIC} -o {folder}/u.nii.gz"
        )
        field = np.asarray(nibabel.load(f"{folder}/u.nii.gz").dataobj, np.float32)
    field = field.reshape(*fixed.shape[2:], -1)[..., :2]
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(field, -1, 0)))[None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("settings", nargs="*", default=list(BUDGETS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    contenders: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "identity": lambda moving, fixed: moving.new_zeros(1, 2, *fixed.shape[2:]),
        "picsl-greedy": peer,
    }
    for text in arguments.settings:
        registration = settings_of(text)
        contenders[text] = lambda x, y, registration=registration: registration(x, y).displacement
    print("images | settings | Dice | s | folds | volume turned over")
    for name, pairs in (("hearts", list(hearts())), ("retinas", list(retinas()))):
        for text, contender in contenders.items():
            dice, folds, volume, seconds = [], 0, 0.0, 0.0
            for moving, fixed, moving_labels, fixed_labels in pairs:
                start = time.process_time()
                u = contender(moving, fixed)
                seconds += time.process_time() - start
                carried = plasticine.warp(moving_labels, u, mode="nearest")
                scores = metrics.dice(carried.int(), fixed_labels.int())
                dice.append(np.mean(list(scores.values())))
                found = plasticine.folding(u)
                folds += int(found.folds)
                volume += float(found.non_diffeomorphic_volume)
            print(
                f"{name} | {text} | {np.mean(dice):.4f} | {seconds / len(pairs):.3f} | {folds} | "
                f"{volume:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
