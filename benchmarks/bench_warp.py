"""warp beside what it replaces: ``F.grid_sample`` with the grid it needs, MONAI, torch.compile.

Every contender computes the same result, which is checked before it is timed. Peers come first, so
that ours can state its ratio to them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import plasticine
from plasticine import backends, reference

Warp = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """Sizes of a warp of one-channel images."""

    spatial: tuple[int, ...]
    batch: int = 1
    dtype: torch.dtype = torch.float32
    rounds: int = 10
    only_on: str | None = None

    @property
    def name(self) -> str:
        size = "x".join(str(n) for n in self.spatial)
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{len(self.spatial)}d {size} batch {self.batch} {dtype}"

    def inputs(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """A random image and a smooth displacement of a few voxels."""
        generator = torch.Generator().manual_seed(0)
        image = torch.rand(self.batch, 1, *self.spatial, generator=generator)
        coarse_size = (self.batch, len(self.spatial), *[5] * len(self.spatial))
        coarse = torch.randn(coarse_size, generator=generator) * 4
        mode = "bilinear" if len(self.spatial) == 2 else "trilinear"
        displacement = F.interpolate(coarse, self.spatial, mode=mode, align_corners=True)
        return image.to(device, self.dtype), displacement.to(device, self.dtype)

    def floor_bytes(self, needs_gradient: bool) -> int:
        """Each tensor read or written once; the scattered gradient is zeroed, read and written."""
        element = torch.finfo(self.dtype).bits // 8
        voxels = self.batch * torch.Size(self.spatial).numel() * element
        field = len(self.spatial) * voxels
        forward = 2 * voxels + field
        backward = 2 * voxels + field + field + 3 * voxels
        return forward + (backward if needs_gradient else 0)


CASES = (
    Case((128, 128), rounds=50),
    Case((256, 256), batch=16, rounds=20),
    Case((64, 64, 64), rounds=20),
    Case((64, 64, 64), dtype=torch.bfloat16, rounds=20),
    Case((128, 128, 128)),
    Case((192, 160, 224), rounds=20, only_on="cuda"),
)


def grid_sample(ndim: int) -> Warp:
    """The pipeline in use: the identity is kept, the rest is built at every call."""
    kept: dict[tuple[Any, ...], Tensor] = {}

    def warp(image: Tensor, displacement: Tensor) -> Tensor:
        size = displacement.shape[2:]
        key = (size, displacement.device, displacement.dtype)
        if key not in kept:
            axes = [torch.arange(n, dtype=displacement.dtype, device=image.device) for n in size]
            kept[key] = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        location = kept[key] + displacement
        scaled = [2 * location[:, i] / (size[i] - 1) - 1 for i in reversed(range(ndim))]
        grid = torch.stack(scaled, dim=-1)
        return F.grid_sample(image, grid, "bilinear", "border", align_corners=True)

    return warp


def contender(name: str, case: Case, peer: Callable[[str], Any], device: torch.device) -> Warp:
    """A function of (image, displacement), or a skip that says why there is none."""
    if name == "grid_sample":
        return grid_sample(len(case.spatial))
    if name == "monai":
        if case.dtype == torch.bfloat16:
            pytest.skip("monai computes coordinates in bfloat16: its result is another")
        module = peer("monai.networks.blocks")
        return module.Warp(mode="bilinear", padding_mode="border")
    if name == "compiled_reference":
        if device.type == "cpu" and case != CASES[2]:
            pytest.skip("on a CPU, compiled for 64**3 float32 alone: it takes half a minute")
        torch.compiler.reset()  # or the ninth size would silently run uncompiled
        return torch.compile(reference.warp, dynamic=False)
    backend = name.removeprefix("plasticine_")
    reason = backends.unsuited(backend, "warp", device.type)
    if reason is not None:
        pytest.skip(reason)
    return lambda image, displacement: plasticine.warp(image, displacement, backend=backend)


CONTENDERS = (
    "grid_sample",
    "monai",
    "compiled_reference",
    "plasticine_cpu",
    "plasticine_triton",
    "plasticine_cuda",
)


def is_worth_running(name: str, device: torch.device) -> bool:
    return {"plasticine_cpu": "cpu", "plasticine_triton": "cuda", "plasticine_cuda": "cuda"}.get(
        name, device.type
    ) == device.type


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
@pytest.mark.parametrize("direction", ["forward", "forward_and_backward"])
@pytest.mark.parametrize("name", CONTENDERS)
def test_warp(name, direction, case, device, peer, measure):
    if not is_worth_running(name, device):
        pytest.skip(f"{name} does not run on {device.type}")
    if case.only_on not in (None, device.type):
        pytest.skip(f"a size for {case.only_on}")
    image, displacement = case.inputs(device)
    warp = contender(name, case, peer, device)
    check_result(case, warp, image, displacement)

    needs_gradient = direction == "forward_and_backward"
    inputs = [x.requires_grad_(needs_gradient) for x in (image, displacement)]
    grad = torch.ones_like(image)

    def forward() -> Tensor:
        return warp(*inputs)

    def forward_and_backward() -> tuple[Tensor, ...]:
        return torch.autograd.grad(warp(*inputs), inputs, grad)

    measure(
        forward_and_backward if needs_gradient else forward,
        key=(case.name, direction, name),
        floor_bytes=case.floor_bytes(needs_gradient),
        rounds=case.rounds,
    )


def check_result(case: Case, warp: Warp, image: Tensor, displacement: Tensor) -> None:
    """A wrong result is not worth a time."""
    difference = warp(image, displacement).detach().float() - expected_result(case, image.device)
    # In bfloat16 grid_sample computes the coordinates in bfloat16 too: it is off by tenths.
    tolerance = 1e-3 if case.dtype == torch.float32 else 1.0
    assert difference.abs().max() <= tolerance


@functools.cache
def expected_result(case: Case, device: torch.device) -> Tensor:
    image, displacement = (x.float() for x in case.inputs(device))
    return reference.warp(image, displacement)
