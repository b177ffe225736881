"""Whole registrations of pairs of all kinds by their defaults, where they begin included.

    OMP_NUM_THREADS=1 python -m benchmarks.registration.modalities [--metric METRIC]

Contrasts: two of one patient's, aligned, of which the fixed one is deformed by a known smooth field
and the moving one turned by 30 degrees and moved by 40 mm; their error is in millimetres within the
body. The others have labels, whose mean Dice is told of the affine stage and of all. Seconds are
the processor's, folds those of all pairs together.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import nibabel
import numpy as np
import torch
from torch import Tensor

import plasticine
from benchmarks.registration.planes import DATA, hearts, retinas
from plasticine import gaussian_smooth, metrics, warp
from plasticine.registration import register

CONTRASTS = (("07", "T1", "T2"), ("19", "T2", "FLAIR"), ("26", "FLAIR", "T1"), ("19", "T1", "T2"))
ORGANS = range(1, 10)
PROSTATES = range(0, 25, 4)


@dataclass(frozen=True)
class Pair:
    """Two images, and either labels of both or where each fixed voxel truly lies.

    Attributes:
        moving: (1, 1, *spatial).
        fixed: (1, 1, *spatial).
        affines: (d + 1, d + 1), of the moving and of the fixed image, voxels to millimetres.
        labels: (1, 1, *spatial), of the moving and of the fixed image.
        truth: (1, d, *fixed spatial), moving millimetres.
    """

    moving: Tensor
    fixed: Tensor
    affines: tuple[Tensor, Tensor]
    labels: tuple[Tensor, Tensor] | None = None
    truth: Tensor | None = None


def tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None, None]


def places(displacement: Tensor, affine: Tensor) -> Tensor:
    """Millimetres of the voxels p + u(p), (1, d, *spatial) float64."""
    axes = [torch.arange(n, dtype=torch.float64) for n in displacement.shape[2:]]
    at = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None] + displacement.double()
    moved = affine[:-1, :-1] @ at.flatten(2) + affine[:-1, -1:]
    return moved.view_as(at)


def contrasts() -> Iterator[Pair]:
    angle = math.radians(30)
    motion = torch.eye(4, dtype=torch.float64)
    motion[1:3, 1:3] = torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    motion[0, 3] = 40
    with np.load(DATA / "brain_t1_t2_flair" / "slices_2mm_112px.npz") as stored:
        for seed, (patient, one, other) in enumerate(CONTRASTS):
            moving, still = (tensor(stored[f"{name}_{patient}"]) for name in (one, other))
            affine = torch.diag(torch.tensor([2.0, 2, 2, 1], dtype=torch.float64))
            affine[:3, 3] = 1 - torch.tensor(moving.shape[2:])
            generator = torch.Generator().manual_seed(seed)
            u = gaussian_smooth(torch.randn((1, 3, *moving.shape[2:]), generator=generator), 10)
            u *= 1.5 / u.norm(dim=1).mean()
            truth = places(u, motion @ affine)
            yield Pair(moving, warp(still, u), (motion @ affine, affine), truth=truth)


def volumes(names: tuple[str, str], labels: tuple[str, str], kept: range | None) -> Pair:
    """Of files with labels; of label maps in channels the first one, the gland."""
    files = [nibabel.load(DATA / name) for name in names]
    images = [tensor(np.asarray(file.dataobj)) for file in files]
    maps = []
    for name, image in zip(labels, images, strict=True):
        array = np.asarray(nibabel.load(DATA / name).dataobj)
        found = tensor(array if array.ndim == 3 else array[..., 0])
        maps.append(found if kept is None else found * (found <= kept[-1]))
        assert maps[-1].shape == image.shape
    affines = [torch.from_numpy(file.affine).double() for file in files]
    return Pair(images[0], images[1], (affines[0], affines[1]), (maps[0], maps[1]))


def prostates(back: bool) -> Iterator[Pair]:
    kinds = ("fixed", "moving") if back else ("moving", "fixed")
    for case in PROSTATES:
        images, labels = (
            tuple(
                f"prostate_mr_us/paired/train/{kind}_{what}/case{case:06d}.nii.gz" for kind in kinds
            )
            for what in ("images", "labels")
        )
        yield volumes((images[0], images[1]), (labels[0], labels[1]), None)


def abdomen(back: bool) -> Iterator[Pair]:
    mr = "abdomen_mr_ct/example_mr_sm.nii.gz", "abdomen_mr_ct/example_seg_mr.nii.gz"
    ct = "abdomen_mr_ct/example_ct.nii.gz", "abdomen_mr_ct/example_seg_fast_force_split.nii.gz"
    one, other = (ct, mr) if back else (mr, ct)
    yield volumes((one[0], other[0]), (one[1], other[1]), ORGANS)


def pictures(pairs: Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]) -> Iterator[Pair]:
    unit = torch.eye(3, dtype=torch.float64)
    for moving, fixed, moving_labels, fixed_labels in pairs:
        yield Pair(moving, fixed, (unit, unit), (moving_labels, fixed_labels))


def figure(pair: Pair, displacement: Tensor) -> float:
    """Of a φ - id in voxels of the fixed image: the error in millimetres, or the mean Dice."""
    if pair.truth is not None:
        apart = (places(displacement, pair.affines[1]) - pair.truth).norm(dim=1)
        return float(apart[:, pair.fixed[0, 0] > 20].mean())
    assert pair.labels is not None
    to_voxels = torch.linalg.inv(pair.affines[0])
    at = places(displacement, to_voxels @ pair.affines[1])
    index = at - places(torch.zeros_like(displacement), torch.eye(len(to_voxels)).double())
    moving, fixed = pair.labels
    carried = warp(moving.double(), index, mode="nearest", padding="zeros").long()
    both = sorted(set(moving.unique().tolist()) & set(fixed.unique().tolist()) - {0})
    return float(np.mean(list(metrics.dice(carried, fixed.long(), labels=both).values())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--metric", help="of both stages, in place of the default")
    parser.add_argument("--only", nargs="*", help="first words of the kinds of pairs")
    arguments = parser.parse_args()
    metric = arguments.metric
    torch.set_num_threads(1)
    kinds = {
        "T1, T2, FLAIR, mm": contrasts(),
        "abdomen MR to CT": abdomen(back=False),
        "abdomen CT to MR": abdomen(back=True),
        "prostate MR to US": prostates(back=False),
        "prostate US to MR": prostates(back=True),
        "hearts": pictures(hearts()),
        "retinas": pictures(retinas()),
    }
    print("pairs | as placed | affine | all | correlation | s | folds")
    for name, pairs in kinds.items():
        if arguments.only and name.split()[0].strip(",") not in arguments.only:
            continue
        rows, folds = [], 0
        for pair in pairs:
            start = time.process_time()
            found = register(pair.moving, pair.fixed, *pair.affines, metric=metric)
            seconds = time.process_time() - start
            still = of_affine(pair, found.affine.physical)
            warped = found.mapping.warp(pair.moving)
            both = torch.stack([warped.flatten(), pair.fixed.flatten()])
            folds += int(plasticine.folding(found.displacement).folds)
            stages = (torch.zeros_like(still), still, found.displacement)
            rows.append([*(figure(pair, u) for u in stages), float(both.corrcoef()[0, 1]), seconds])
        means = np.mean(rows, 0)
        print(name, *(f"{mean:.3f}" for mean in means), folds, sep=" | ", flush=True)


def of_affine(pair: Pair, physical: Tensor) -> Tensor:
    """An affine map as a displacement, voxels of the fixed image."""
    fixed = pair.affines[1]
    still = torch.zeros(1, len(fixed) - 1, *pair.fixed.shape[2:])
    at = places(still, torch.linalg.inv(fixed) @ physical @ fixed)
    return (at - places(still, torch.eye(len(fixed)).double())).float()


if __name__ == "__main__":
    main()
