"""A pair of 182 × 218 × 182 voxels of 1 mm: seconds and peak memory, on a CPU or a GPU.

    python -m benchmarks.registration.one_millimetre [--device cuda] [--output FILE.json]

The moving image is a head (patient 07, T1) of a known smooth deformation, turned and shifted.
Where FireANTs is installed, it registers the same pair by the settings of its script for LPBA40.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from torch import Tensor

import plasticine
from benchmarks.memory import peak_bytes
from plasticine.registration import register

FILE = (
    Path(os.environ.get("PLASTICINE_DATA", "../shared/data"))
    / "brain_t1_t2_flair"
    / "patient07_T1.nii.gz"
)
_TURN, _SHIFT, _MEAN = 10.0, (12.0, -8.0, 5.0), 4.0  # degrees; millimetres; of the deformation


def pair(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(moving, fixed, φ - id): what is to be found is known, to interpolation."""
    image = np.asarray(nibabel.load(FILE).dataobj, dtype=np.float32)
    fixed = torch.from_numpy(image)[None, None].to(device)
    size = fixed.shape[2:]
    drawn = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)
    velocity = plasticine.gaussian_smooth(drawn, 14.0)
    velocity = velocity * (_MEAN / velocity.norm(dim=1).mean())
    u, inverse = plasticine.exponential(velocity, inverse=True)
    angle = np.deg2rad(_TURN)
    turn = torch.eye(3, dtype=torch.float64)
    turn[:2, :2] = torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = (torch.tensor(size, dtype=torch.float64) - 1) / 2
    shift = torch.tensor(_SHIFT, dtype=torch.float64) + centre - turn @ centre
    rigid = torch.cat([turn, shift[:, None]], 1)[None]
    back = torch.cat([turn.T, -(turn.T @ shift)[:, None]], 1)[None].to(fixed)
    # φ = R∘exp(v), so that the moving image is fixed∘exp(-v)∘R⁻¹.
    still = torch.zeros_like(u)
    deformed = plasticine.warp(fixed, inverse)
    moving = plasticine.warp(deformed, still, affine=back, padding="zeros")
    axes = [torch.arange(n, dtype=torch.float32, device=device) for n in size]
    p = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
    rigid = rigid.to(fixed)
    truth = torch.einsum("ij,njxyz->nixyz", rigid[0, :, :3], p + u)
    truth = truth + rigid[0, :, 3].view(1, 3, 1, 1, 1) - p
    return moving, fixed, truth


def fireants(moving: Tensor, fixed: Tensor) -> Callable[[], Tensor]:
    """Its affine and greedy stages by the scales and rates of its script for LPBA40."""
    import SimpleITK as sitk  # noqa: N813 (its users' name for it)
    from fireants.io.image import BatchedImages, Image
    from fireants.registration.affine import AffineRegistration
    from fireants.registration.greedy import GreedyRegistration

    device = str(fixed.device)
    images = [
        BatchedImages(Image(sitk.GetImageFromArray(image[0, 0].cpu().numpy()), device=device))
        for image in (fixed, moving)
    ]
    loss = "fusedcc" if fixed.is_cuda and importlib.util.find_spec("fireants_fused_ops") else "cc"

    def run() -> Tensor:
        affine = AffineRegistration(
            [8, 4, 2, 1],
            [100, 50, 25, 20],
            *images,
            loss_type=loss,
            optimizer="Adam",
            optimizer_lr=3e-4,
            cc_kernel_size=5,
        )
        affine.optimize()
        greedy = GreedyRegistration(
            [4, 2, 1],
            [200, 100, 50],
            *images,
            loss_type=loss,
            cc_kernel_size=7,
            deformation_type="compositive",
            smooth_grad_sigma=2,
            smooth_warp_sigma=0.5,
            optimizer="adam",
            optimizer_lr=0.5,
            init_affine=affine.get_affine_matrix().detach(),
        )
        greedy.optimize()
        warped: Tensor = greedy.evaluate(*images)
        return warped

    return run


def measured(function: Callable[[], Any], device: torch.device) -> tuple[Any, dict[str, float]]:
    """The result of a second call, its seconds, and the peak of a first one, which compiles."""
    peak = peak_bytes(function, device)
    start, processor = time.perf_counter(), time.process_time()
    result = function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return result, {
        "seconds": time.perf_counter() - start,
        "processor_seconds": time.process_time() - processor,
        "peak_gib": (peak or 0) / 2**30,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--budgets", nargs="*", default=["fast", "default", "best"])
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    moving, fixed, truth = pair(device)
    head = fixed > 0
    record: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rows": {},
    }

    def keep(name: str, row: dict[str, float], warped: Tensor) -> None:
        inside = torch.stack([warped[head], fixed[head]]).double()
        row["correlation"] = float(torch.corrcoef(inside)[0, 1])
        record["rows"][name] = {key: round(value, 4) for key, value in row.items()}
        print(f"{name}: {record['rows'][name]}", flush=True)

    keep("before", {}, moving)
    for budget in arguments.budgets:

        def run(budget: str = budget) -> tuple[Any, Tensor]:
            found = register(moving, fixed, budget=budget)
            return found, found.mapping.warp(moving)

        (found, warped), row = measured(run, device)
        error = (found.displacement - truth).norm(dim=1, keepdim=True)[head]
        row |= {"error_mm": float(error.mean()), "folds": float(found.folding.folds)}
        keep(budget, row, warped)
    if importlib.util.find_spec("fireants"):
        warped, row = measured(fireants(moving, fixed), device)
        keep("FireANTs", row, warped)
    if arguments.output:
        arguments.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
