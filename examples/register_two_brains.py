"""Registers one head to another, carries its labels, and asks SimpleITK for the same image."""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 (its users' name for it)
import torch
from heads import two_heads

from plasticine.io import read_volume, register_volumes, write_displacement, write_image
from plasticine.metrics import dice


def main() -> None:
    """Registers real heads of PLASTICINE_DATA, else drawn ones, and reads what is found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=64, help="voxels along each axis, if drawn")
    parser.add_argument("--budget", default="default", help="fast, default or best")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = real_files() or drawn_files(Path(folder), options.size)
        result = register_volumes(
            read_volume(files["moving"]),
            read_volume(files["fixed"]),
            budget=options.budget,
            moving_labels=files["moving_labels"],
            fixed_labels=files["fixed_labels"],
        )
        field = Path(folder) / "displacement.nii.gz"
        write_displacement(field, result.displacement, result.fixed.affine)
        by_itk = warped_by_itk(files, field)

    for stage, found in result.similarity.items():
        print(f"{stage}: local correlation {found['lncc']:.3f}")
    print(f"{int(result.pair.folding.folds)} folds in {result.jacobian.size} voxels")
    scores = dice(torch.from_numpy(result.labels), torch.from_numpy(result.fixed_labels))
    print(f"Dice {np.mean(list(scores.values())):.3f} of {len(scores)} labels")
    # The displacement has the affine map in it: where the middle of the fixed image came from.
    middle = tuple(n // 2 for n in result.fixed.data.shape)
    place = result.fixed.affine @ [*(middle + result.displacement[(slice(None), *middle)]), 1]
    print(f"fixed voxel {middle} came from {place[:3].round(1)} mm in the moving image")
    apart = np.abs(by_itk - result.warped)[result.valid] / np.ptp(result.warped)
    print(f"SimpleITK warps to the same: {apart.max():.5f} of the range apart at most")


def real_files() -> dict[str, Path]:
    """Two T1 heads and their label maps; none where PLASTICINE_DATA has them not."""
    folder = Path(os.environ.get("PLASTICINE_DATA", "nowhere")) / "brain_t1_labels"
    files = {}
    for name, number in (("moving", "012"), ("fixed", "013")):
        files[name] = folder / f"IXI{number}_t1.nii.gz"
        files[f"{name}_labels"] = folder / f"IXI{number}_labels.nii.gz"
    return files if all(file.is_file() for file in files.values()) else {}


def drawn_files(folder: Path, size: int) -> dict[str, Path]:
    """Two drawn heads, one of them stored the other way round; what is bright is their label."""
    files = {}
    for name, image, way in zip(("moving", "fixed"), two_heads(size), (-1, 1), strict=True):
        files[name], files[f"{name}_labels"] = folder / f"{name}.nii.gz", folder / f"{name}_.nii.gz"
        stored, affine = image[0, 0].numpy()[::way].copy(), np.diag([way * 3.0, 3, 3, 1])
        affine[:3, 3] = -affine[:3, :3] @ np.full(3, (size - 1) / 2)
        write_image(files[name], stored, affine)
        write_image(files[f"{name}_labels"], (stored > 0.5).astype(np.float32), affine)
    return files


def warped_by_itk(files: dict[str, Path], field: Path) -> np.ndarray:
    """The moving image as SimpleITK resamples it, with NIfTI's order of axes."""
    transform = sitk.DisplacementFieldTransform(sitk.ReadImage(str(field), sitk.sitkVectorFloat64))
    moving, fixed = (sitk.ReadImage(str(files[n]), sitk.sitkFloat32) for n in ("moving", "fixed"))
    return sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform)).transpose(2, 1, 0)


if __name__ == "__main__":
    main()
