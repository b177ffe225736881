"""Affine registration of heads of different people: ours beside ANTs' and greedy's.

    OMP_NUM_THREADS=1 PLASTICINE_DATA=... python -m benchmarks.registration.affine

For each ordered pair of ``brain_t1_labels``, the moving head's labels are carried to the fixed head
by nearest neighbour, through the physical map that a contender found from the images alone, and the
Dice coefficients of all labels that either head has are averaged. Seconds are processor time of one
thread, reading of files left out for ours and in for the others, a few hundredths.

``--turn`` turns and shifts the moving head first, by 30 degrees and 40 mm in its header alone;
``--all`` takes all ordered pairs in place of fifteen. Peers that are not installed are left out:
antspyx, picsl-greedy.

Writes ``benchmarks/results/affine.json``, or where ``--output`` says.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.translation.record import RESULTS, add_data_argument, machine, versions, write
from plasticine import metrics
from plasticine.registration import AffineRegistration

HEADS = ("012", "013", "014", "015", "033", "034", "039", "048", "049", "051")
FIFTEEN = [
    *(("012", "013"), ("014", "015"), ("033", "034"), ("013", "012"), ("051", "012")),
    *((HEADS[i], HEADS[(i + 3) % len(HEADS)]) for i in range(len(HEADS))),
]
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
TURN = 30.0
SHIFT = (40.0, 0.0, 0.0)

Matrix = NDArray[np.float64]


def ours(metric: str) -> Callable[[Path, Path], tuple[Matrix, float]]:
    """A contender: from two files to a map of fixed to moving millimetres (RAS), and seconds."""

    def register(moving: Path, fixed: Path) -> tuple[Matrix, float]:
        arguments: list[torch.Tensor] = []
        for path in (moving, fixed):
            file = nibabel.load(path)
            arguments.append(torch.from_numpy(np.asarray(file.dataobj, np.float32))[None, None])
            arguments.append(torch.from_numpy(file.affine))
        begin = time.process_time()
        found = AffineRegistration(metric=metric)(*arguments[::2], *arguments[1::2])
        return found.physical.numpy(), time.process_time() - begin

    return register


def ants(moving: Path, fixed: Path) -> tuple[Matrix, float]:
    """antspyx's ``type_of_transform="Affine"``, all else as it is by default, seeded."""
    import ants as peer

    begin = time.process_time()
    images = [peer.image_read(str(path)) for path in (fixed, moving)]
    found = peer.registration(*images, type_of_transform="Affine", random_seed=1)
    seconds = time.process_time() - begin
    transform = peer.read_transform(found["fwdtransforms"][0])
    numbers, centre = np.array(transform.parameters), np.array(transform.fixed_parameters)
    matrix = np.eye(4)
    matrix[:3, :3] = numbers[:9].reshape(3, 3)
    matrix[:3, 3] = numbers[9:] + centre - matrix[:3, :3] @ centre
    return LPS @ matrix @ LPS, seconds


def greedy(moving: Path, fixed: Path) -> tuple[Matrix, float]:
    """picsl-greedy with 12 degrees of freedom and NCC, from the images' centres."""
    from picsl_greedy import Greedy3D

    with tempfile.TemporaryDirectory() as folder:
        begin = time.process_time()
        Greedy3D().execute(
            f"-threads 1 -a -dof 12 -i {fixed} {moving} -ia-image-centers -m NCC 4x4x4 "
            f"-n 100x50x10 -o {folder}/affine.mat",
            out=io.StringIO(),
        )
        seconds = time.process_time() - begin
        return np.loadtxt(f"{folder}/affine.mat"), seconds


def contenders() -> dict[str, Callable[[Path, Path], tuple[Matrix, float]]]:
    """By name; the peers that are installed only."""
    found: dict[str, Callable[[Path, Path], tuple[Matrix, float]]] = {
        "identity": lambda moving, fixed: (np.eye(4), 0.0),
        "plasticine": ours("lncc"),
        "plasticine, mutual information": ours("mutual_information"),
    }
    if find_spec("ants"):
        found["antspyx Affine"] = ants
    if find_spec("picsl_greedy"):
        found["picsl-greedy affine"] = greedy
    return found


def turned(path: Path, folder: Path) -> tuple[Path, Matrix]:
    """A copy of an image whose header says that it lies elsewhere, and the map that moved it."""
    file = nibabel.load(path)
    centre = file.affine @ [*((np.array(file.shape) - 1) / 2), 1]
    c, s = math.cos(math.radians(TURN)), math.sin(math.radians(TURN))
    motion = np.eye(4)
    motion[:3, :3] = [[1, 0, 0], [0, c, -s], [0, s, c]]
    motion[:3, 3] = np.array(SHIFT) + centre[:3] - motion[:3, :3] @ centre[:3]
    copy = folder / path.name
    nibabel.save(nibabel.Nifti1Image(np.asarray(file.dataobj), motion @ file.affine), copy)
    return copy, motion


def mean_dice(physical: Matrix, moving: Path, fixed: Path) -> float:
    """Of the labels that either of two files has, the moving ones carried to the fixed grid."""
    source, target = nibabel.load(moving), nibabel.load(fixed)
    labels, truth = (np.asarray(file.dataobj).astype(np.int64) for file in (source, target))
    voxels = np.linalg.inv(source.affine) @ physical @ target.affine
    index = np.indices(truth.shape).reshape(3, -1)
    places = np.rint(voxels[:3, :3] @ index + voxels[:3, 3:]).astype(np.int64)
    inside = np.all((places >= 0) & (places < np.array(labels.shape)[:, None]), 0)
    carried = np.zeros(truth.size, np.int64)
    carried[inside] = labels[tuple(places[:, inside])]
    known = np.union1d(labels, truth)
    maps = (torch.from_numpy(array) for array in (carried, truth.ravel()))
    return statistics.mean(metrics.dice(*maps, labels=known[known > 0].tolist()).values())


def main() -> None:
    """Measures, prints a table and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_argument(parser)
    parser.add_argument("--all", action="store_true", help="all ordered pairs")
    parser.add_argument("--turn", action="store_true", help="turn the moving head by 30 degrees")
    parser.add_argument("--only", nargs="*", help="names of contenders")
    parser.add_argument("--output", type=Path, default=RESULTS / "affine.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"
    every = [(a, b) for a in HEADS for b in HEADS if a != b]
    pairs = every if options.all else FIFTEEN
    rows: dict[str, dict[str, Any]] = {}
    for name, register in contenders().items():
        if options.only and name not in options.only:
            continue
        dice, seconds = [], []
        for moving, fixed in pairs:
            heads = options.data / "brain_t1_labels"
            image, motion = heads / f"IXI{moving}_t1.nii.gz", np.eye(4)
            with tempfile.TemporaryDirectory() as folder:
                if options.turn:
                    image, motion = turned(image, Path(folder))
                physical, taken = register(image, heads / f"IXI{fixed}_t1.nii.gz")
            labels = [heads / f"IXI{head}_labels.nii.gz" for head in (moving, fixed)]
            dice.append(mean_dice(np.linalg.inv(motion) @ physical, *labels))
            seconds.append(taken)
        rows[name] = {
            "pairs": {
                f"{moving}->{fixed}": {"dice": d, "cpu_seconds": s}
                for (moving, fixed), d, s in zip(pairs, dice, seconds, strict=True)
            },
            "mean_dice": statistics.mean(dice),
            "least_dice": min(dice),
            "cpu_seconds": statistics.median(seconds),
        }
        print(
            f"{name:22} mean Dice {rows[name]['mean_dice']:.4f}, least {min(dice):.4f}, "
            f"{rows[name]['cpu_seconds']:.2f} CPU seconds a pair (median)",
            flush=True,
        )
    record = {**machine(), **versions(), "turned": options.turn, "contenders": rows}
    write(options.output, record)


if __name__ == "__main__":
    main()
