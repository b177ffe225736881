"""Whole registrations of pairs of all kinds by their defaults, where they begin included.

    OMP_NUM_THREADS=1 python -m benchmarks.registration.modalities [--metric METRIC]
    OMP_NUM_THREADS=1 python -m benchmarks.registration.modalities --peers

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
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from torch import Tensor

import plasticine
from benchmarks.registration import peers
from benchmarks.registration.heads import Head
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
        paths: of the files, where peers can read them.
    """

    moving: Tensor
    fixed: Tensor
    affines: tuple[Tensor, Tensor]
    labels: tuple[Tensor, Tensor] | None = None
    truth: Tensor | None = None
    paths: tuple[Path, Path] | None = None

    @property
    def heads(self) -> tuple[Head, Head]:
        """Of the moving and the fixed image, as peers take them."""
        assert self.labels is not None
        assert self.paths is not None
        images, matrices = (self.moving, self.fixed), [a.numpy() for a in self.affines]
        parts = zip(images, self.labels, matrices, self.paths, strict=True)
        moving, fixed = (Head(*part) for part in parts)
        return moving, fixed


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
    paths = DATA / names[0], DATA / names[1]
    return Pair(*images, (affines[0], affines[1]), (maps[0], maps[1]), paths=paths)  # type: ignore[misc]


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
    to_voxels = torch.linalg.inv(pair.affines[0])
    at = places(displacement, to_voxels @ pair.affines[1])
    return labels_of(pair, at - places(torch.zeros_like(at), torch.eye(len(to_voxels)).double()))[0]


def labels_of(pair: Pair, index: Tensor) -> tuple[float, float]:
    """Mean Dice of the labels that both have, and how far apart their centres lie, millimetres.

    Args:
        pair: with labels.
        index: (1, d, *fixed spatial), where φ leads to in voxels of the moving image, less the
            fixed voxel's index.

    Returns:
        The two means; the second of those labels that are not carried out of the image.
    """
    assert pair.labels is not None
    moving, fixed = pair.labels
    carried = warp(moving.double(), index, mode="nearest", padding="zeros").long()
    both = sorted(set(moving.unique().tolist()) & set(fixed.unique().tolist()) - {0})
    dice = metrics.dice(carried, fixed.long(), labels=both)
    linear = pair.affines[1][:-1, :-1]
    centres = [(_centre(carried, label), _centre(fixed, label)) for label in both]
    apart = [
        float((linear @ (one - other)).norm()) for one, other in centres if one.isfinite().all()
    ]
    return float(np.mean(list(dice.values()))), float(np.mean(apart)) if apart else math.nan


def _centre(labels: Tensor, label: float) -> Tensor:
    """The mean place of a label's voxels; infinite of none."""
    found = (labels[0, 0] == label).nonzero().double()
    return found.mean(0) if len(found) else torch.full((labels.ndim - 2,), math.inf).double()


def beside_peers() -> None:
    """Pairs of two modalities by mutual information of peers, and by our defaults."""
    methods = {
        "as placed": peers.identity,
        **peers.MULTIMODAL,
        "ours": _ours(),
        "ours, affine": _ours(transform="affine"),
        "ours, rigid by MIND": _ours(transform="rigid", metric="mind"),
        "ours, MIND": _ours(metric="mind"),
    }
    kinds = {
        "7 prostates, MR to US": list(prostates(back=False)),
        "abdomen, MR to CT": list(abdomen(back=False)),
        "abdomen, CT to MR": list(abdomen(back=True)),
    }
    print("pairs | method | Dice | centres apart, mm | s | folds | pairs lost | ended in an error")
    for kind, pairs in kinds.items():
        for name, method in methods.items():
            rows, failed = [], 0
            for pair in pairs:
                moving, fixed = pair.heads
                start = time.process_time()
                try:
                    field = method(moving, fixed)
                except Exception as error:  # a peer's own
                    failed += 1
                    print(f"{kind} | {name} | {type(error).__name__}: {error}", flush=True)
                    continue
                seconds = time.process_time() - start
                index = torch.from_numpy(peers.in_moving_voxels(field, moving, fixed))[None]
                own = np.einsum("ij,j...->i...", np.linalg.inv(fixed.affine[:3, :3]), field)
                folds = int(plasticine.folding(torch.from_numpy(own)[None]).folds)
                rows.append([*labels_of(pair, index), seconds, folds])
            if rows:
                dice, _, seconds, folds = np.mean(rows, 0)
                # Of pairs that are not lost altogether.
                apart = np.nanmean([row[1] for row in rows])
                lost = sum(row[0] == 0 for row in rows)
                print(
                    *(kind, name, f"{dice:.3f}", f"{apart:.2f}", f"{seconds:.1f}", f"{folds:.0f}"),
                    *(lost, failed),
                    sep=" | ",
                    flush=True,
                )


def _ours(**options: Any) -> peers.Registration:
    def run(moving: Head, fixed: Head) -> peers.Field:
        matrices = torch.from_numpy(moving.affine), torch.from_numpy(fixed.affine)
        u = register(moving.image, fixed.image, *matrices, **options).displacement[0]
        millimetres: peers.Field = np.einsum(
            "ij,j...->i...", fixed.affine[:3, :3], u.double().numpy()
        )
        return millimetres

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--metric", help="of both stages, in place of the default")
    parser.add_argument("--only", nargs="*", help="first words of the kinds of pairs")
    parser.add_argument(
        "--peers", action="store_true", help="those of two modalities, beside peers"
    )
    arguments = parser.parse_args()
    metric = arguments.metric
    torch.set_num_threads(1)
    if arguments.peers:
        beside_peers()
        return
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
