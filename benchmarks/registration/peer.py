"""What picsl-greedy makes of the pairs of heads, and the affine start that it and ours then share.

    python -m benchmarks.registration.peer FOLDER

Needs ``pip install picsl_greedy nibabel``. Writes ``FOLDER/<moving>-<fixed>.npz``: the affine map
and the displacement in voxels, and the processor's seconds of one thread of each stage.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
import torch

from benchmarks.registration import heads

METRIC = "-m NCC 2x2x2 -n 100x50x10"


def register(moving: heads.Head, fixed: heads.Head) -> dict[str, np.ndarray]:
    """An affine, then a deformable registration, by the settings of its documentation."""
    from picsl_greedy import Greedy3D

    greedy = Greedy3D()
    seconds = []

    def run(command: str) -> None:
        start = time.process_time()
        greedy.execute(f"-d 3 -threads 1 -V 0 {command}")
        seconds.append(time.process_time() - start)

    with tempfile.TemporaryDirectory() as folder:
        matrix, field, both = (f"{folder}/{name}" for name in ("a.mat", "u.nii.gz", "b.nii.gz"))
        run(f"-i {fixed.path} {moving.path} -a -dof 12 -ia-image-centers {METRIC} -o {matrix}")
        run(f"-i {fixed.path} {moving.path} -it {matrix} {METRIC} -o {field}")
        run(f"-rf {fixed.path} -rc {both} -r {field} {matrix}")
        world = np.loadtxt(matrix)
        # Millimetres of ITK, whose first two axes point the other way.
        total = np.asarray(nibabel.load(both).dataobj)[..., 0, :] * [-1, -1, 1]
    to_moving = np.linalg.inv(moving.affine)
    affine = (to_moving @ world @ fixed.affine)[:3]
    voxels = np.stack(np.meshgrid(*map(np.arange, total.shape[:3]), indexing="ij"), -1)
    at = voxels @ fixed.affine[:3, :3].T + fixed.affine[:3, 3] + total
    at = at @ to_moving[:3, :3].T + to_moving[:3, 3]
    displacement = at - voxels @ affine[:, :3].T - affine[:, 3]
    return {
        "affine": affine.astype(np.float32)[None],
        "displacement": np.moveaxis(displacement, -1, 0).astype(np.float32)[None],
        "seconds": np.array(seconds[:2]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    print("pair     | affine Dice | s | Dice | s | folds | corners' volume | SDlogJ")
    for pair in (*heads.CHOOSING, *heads.JUDGING):
        moving, fixed = map(heads.head, pair)
        path = folder / f"{'-'.join(pair)}.npz"
        if not path.exists():
            np.savez_compressed(path, **register(moving, fixed))
        with np.load(path) as kept:
            affine, total = (torch.from_numpy(kept[name]) for name in ("affine", "displacement"))
            seconds = kept["seconds"]
        start = heads.mean_dice(moving, fixed, torch.zeros_like(total), affine)
        end = heads.mean_dice(moving, fixed, total, affine)
        # In voxels of the fixed image.
        own = torch.linalg.solve(affine[0, :, :3], total[0].flatten(1)).view_as(total)
        fold = heads.folding(own)
        print(
            f"{'-'.join(pair)}  | {start:.4f} | {seconds[0]:.1f} | {end:.4f} | {seconds[1]:.1f} | "
            f"{fold['folds']} | {fold['volume']:.2f} | {fold['sdlogj']:.3f}"
        )


if __name__ == "__main__":
    main()
