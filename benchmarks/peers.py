"""What other projects call, set to compute what ours compute: padding, steps and axes.

Every function here prepares a :class:`~benchmarks.contest.Contender`: it takes the case and the
operator's inputs and returns what is timed. A conversion to the peer's own convention is outside
the time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.contest import Case, Prepared, peer

Warp = Callable[[Tensor, Tensor], Tensor]
Prepare = Callable[..., Prepared]


def identity(field: Tensor) -> Tensor:
    """The place of every voxel, ``(d, *spatial)``, of the field's dtype and device."""
    axes = [torch.arange(n, dtype=field.dtype, device=field.device) for n in field.shape[2:]]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def grid_sample_warp(padding: str = "border", mode: str = "bilinear") -> Warp:
    """The pipeline in use: the identity is kept, the rest is built at every call."""
    kept: list[Tensor] = []

    def warp(image: Tensor, displacement: Tensor) -> Tensor:
        if not kept:
            kept.append(identity(displacement.detach()))
        location = kept[0] + displacement
        size = image.shape[2:]
        scaled = [2 * location[:, i] / (size[i] - 1) - 1 for i in reversed(range(len(size)))]
        grid = torch.stack(scaled, dim=-1)
        return F.grid_sample(image, grid, mode, padding, align_corners=True)

    return warp


def grid_sample(mode: str) -> Prepare:
    return lambda case, *inputs: Prepared(grid_sample_warp(mode=mode))


def monai_warp(case: Case, *inputs: Tensor, mode: str = "bilinear") -> Prepared:
    module = peer("monai.networks.blocks")
    return Prepared(module.Warp(mode=mode, padding_mode="border"))


def monai_correlation(case: Case, *inputs: Tensor) -> Prepared:
    """Its loss in a box of 9 voxels, whose mean it would take over the batch as well."""
    loss = peer("monai.losses").LocalNormalizedCrossCorrelationLoss(
        spatial_dims=case.ndim, kernel_size=9, reduction="none", smooth_nr=0
    )
    return Prepared(lambda x, y: -loss(x, y).flatten(1).mean(1))


def cumulative_correlation(case: Case, *inputs: Tensor) -> Prepared:
    """The definition by differences of cumulative sums, whatever the window, as PyTorch has it."""
    half = 4

    def window_sum(x: Tensor) -> Tensor:
        for axis in range(2, x.dim()):
            size = x.shape[axis]
            pad = [0, 0] * (x.dim() - 1 - axis) + [half + 1, half]
            sums = F.pad(x, pad).cumsum(axis)
            x = sums.narrow(axis, 2 * half + 1, size) - sums.narrow(axis, 0, size)
        return x

    count = window_sum(torch.ones_like(inputs[0][:1]))

    def correlation(x: Tensor, y: Tensor) -> Tensor:
        sum_x, sum_y = window_sum(x), window_sum(y)
        cross = window_sum(x * y) - sum_x * sum_y / count
        variance_x = (window_sum(x * x) - sum_x * sum_x / count).clamp(min=1e-5)
        variance_y = (window_sum(y * y) - sum_y * sum_y / count).clamp(min=1e-5)
        return (cross * cross / (variance_x * variance_y)).flatten(1).mean(1)

    return Prepared(correlation)


def monai_bending(case: Case, *inputs: Tensor) -> Prepared:
    """Its mean over components too, and over the batch, of each sample."""
    return _monai_energy(peer("monai.losses").BendingEnergyLoss, case)


def monai_diffusion(case: Case, *inputs: Tensor) -> Prepared:
    """The same of the first order."""
    return _monai_energy(peer("monai.losses").DiffusionLoss, case)


def _monai_energy(loss: Any, case: Case) -> Prepared:
    if case.batch == 1:
        module = loss()
        return Prepared(lambda v: case.ndim * module(v)[None])
    module = loss(reduction="none")  # to the mean of all samples there is no way back
    return Prepared(lambda v: case.ndim * module(v).flatten(1).mean(1))


def monai_information(case: Case, *inputs: Tensor, kernel: str, bins: int) -> Prepared:
    """Its loss, whose mean it would take over the batch as well."""
    loss = peer("monai.losses").GlobalMutualInformationLoss(
        kernel_type=kernel, num_bins=bins, reduction="none"
    )
    return Prepared(lambda x, y: -loss(x, y))


def voxelmorph_transform(case: Case, *inputs: Tensor, mode: str = "linear") -> Prepared:
    """The functional of its SpatialTransformer, whose padding cannot be chosen (zeros)."""
    transform = peer("voxelmorph").spatial_transform
    return Prepared(
        functools.partial(
            transform,
            mode=mode,
            meshgrid=identity(inputs[-1]),
            non_spatial_dims=(0, 1),
            padding_mode="border",
        )
    )


def to_cube(field: Tensor) -> Tensor:
    """A field in voxels, axes in order, to one in [-1, 1], axes reversed."""
    size = field.new_tensor([n - 1 for n in field.shape[2:]])
    return (field * (2 / size).view(1, -1, *[1] * len(size))).flip(1)


def from_cube(field: Tensor) -> Tensor:
    size = field.new_tensor([n - 1 for n in field.shape[2:]])
    return field.flip(1) * (size / 2).view(1, -1, *[1] * len(size))


def deepali_warp(case: Case, image: Tensor, displacement: Tensor) -> Prepared:
    functional, core = peer("deepali.core.functional"), peer("deepali.core")
    grid = core.Grid(shape=case.spatial, align_corners=True).coords(
        dtype=image.dtype, device=image.device
    )
    flow = to_cube(displacement).movedim(1, -1).contiguous()

    def warp(image: Tensor, flow: Tensor) -> Tensor:
        return functional.warp_image(image, grid, flow, padding="border", align_corners=True)

    return Prepared(warp, (image, flow))


def fireants_interpolator() -> Any:
    """FireANTs' interpolator on its fused kernels, which are a package of their own."""
    peer("fireants_fused_ops")
    return peer("fireants.interpolator").fireants_interpolator


def fireants_affine(case: Case, like: Tensor) -> Tensor:
    identity = torch.eye(case.ndim, case.ndim + 1, device=like.device)
    return identity.expand(case.batch, -1, -1).contiguous()


def fireants_warp(case: Case, image: Tensor, displacement: Tensor) -> Prepared:
    """In 3D alone it has a kernel; the field is channel-last, xyz, in [-1, 1]."""
    interpolate = fireants_interpolator()
    if case.ndim == 2:
        pytest.skip("fireants has no fused kernel in 2D")
    affine = fireants_affine(case, image)
    flow = to_cube(displacement).movedim(1, -1).contiguous()

    def warp(image: Tensor, flow: Tensor) -> Tensor:
        return interpolate(
            image,
            affine=affine,
            grid=flow,
            mode="bilinear",
            padding_mode="border",
            align_corners=True,
            is_displacement=True,
        )

    return Prepared(warp, (image, flow))


def fireants_exponential(case: Case, velocity: Tensor, *, steps: int = 7) -> Prepared:
    """Zeros outside, as it composes."""
    compose = fireants_interpolator().warp_composer
    if case.ndim == 2:
        pytest.skip("fireants has no fused kernel in 2D")
    affine = fireants_affine(case, velocity)

    def exponential(flow: Tensor) -> Tensor:
        flow = flow * 0.5**steps
        for _ in range(steps):
            flow = flow + compose(flow, affine=affine, v=flow, align_corners=True)
        return flow

    flow = to_cube(velocity).movedim(1, -1).contiguous()
    return Prepared(exponential, (flow,), lambda flow: from_cube(flow.movedim(-1, 1)))


def interpol_pull(
    case: Case, image: Tensor, displacement: Tensor, *, order: int = 1, bound: str = "replicate"
) -> Prepared:
    """Order 3 takes the image for samples of the spline, and so filters it first."""
    pull = peer("interpol").grid_pull
    grid = (identity(displacement) + displacement).movedim(1, -1).contiguous()

    def warp(image: Tensor, grid: Tensor) -> Tensor:
        return pull(image, grid, order, bound, extrapolate=True, prefilter=order > 1)

    return Prepared(warp, (image, grid))


def interpol_push(case: Case, image: Tensor, displacement: Tensor) -> Prepared:
    push = peer("interpol").grid_push
    grid = (identity(displacement) + displacement).movedim(1, -1).contiguous()

    def splat(image: Tensor, grid: Tensor) -> Tensor:
        return push(image, grid, case.spatial, 1, "replicate", extrapolate=True)

    return Prepared(splat, (image, grid))


def scipy_map_coordinates(
    case: Case, image: Tensor, displacement: Tensor, *, order: int = 1, mode: str = "nearest"
) -> Prepared:
    """Sample by sample: it knows no batch."""
    sample = peer("scipy.ndimage").map_coordinates
    images = image[:, 0].numpy()
    places = (identity(displacement) + displacement).numpy()

    def warp(images: np.ndarray, places: np.ndarray) -> np.ndarray:
        return np.stack(
            [sample(x, p, order=order, mode=mode) for x, p in zip(images, places, strict=True)]
        )

    return Prepared(warp, (images, places), lambda result: torch.from_numpy(result)[:, None])


def sitk_image(field: Tensor) -> Any:
    """A field ``(1, d, *spatial)`` as SimpleITK's image of vectors, of 1 mm voxels."""
    components = field[0].flip(0).movedim(0, -1).contiguous().numpy().astype(np.float64)
    return peer("SimpleITK").GetImageFromArray(components, isVector=True)


def from_sitk(image: Any) -> Tensor:
    components = torch.from_numpy(peer("SimpleITK").GetArrayFromImage(image))
    return components.movedim(-1, 0).flip(0)[None]


def sitk_warp(case: Case, image: Tensor, displacement: Tensor) -> Prepared:
    sitk = peer("SimpleITK")
    moving = sitk.GetImageFromArray(image[0, 0].numpy())
    field = sitk_image(displacement)

    def warp(moving: Any, field: Any) -> Any:
        return sitk.Warp(moving, field, sitk.sitkLinear, moving.GetSize())

    def inside(result: Any) -> Tensor:
        """Where it looked outside the image it has 0: there the comparison has nothing to say."""
        found = torch.from_numpy(sitk.GetArrayFromImage(result))[None, None]
        expected = grid_sample_warp()(image, displacement)
        location = identity(displacement) + displacement
        last = displacement.new_tensor(case.spatial).view(1, -1, *[1] * case.ndim) - 1
        outside = ((location < 0) | (location > last)).any(1, keepdim=True)
        return torch.where(outside, expected, found)

    return Prepared(warp, (moving, field), inside)


def pipeline_compose(warp: Prepare) -> Prepare:
    """What a project without a composition writes: warp one field by the other and add."""

    def prepare(case: Case, u: Tensor, v: Tensor) -> Prepared:
        sample = warp(case, u, v).call
        return Prepared(lambda u, v: sample(u, v) + v)

    return prepare


def monai_exponential(
    case: Case, velocity: Tensor, *, steps: int = 7, padding: str = "border"
) -> Prepared:
    module = peer("monai.networks.blocks")
    return Prepared(module.DVF2DDF(num_steps=steps, padding_mode=padding))


def voxelmorph_exponential(case: Case, velocity: Tensor, *, steps: int = 7) -> Prepared:
    integrate = peer("voxelmorph").integrate_vec
    transform = voxelmorph_transform(case, velocity).call
    return Prepared(
        lambda velocity: integrate(velocity, steps, scale=0.5**steps, transformer=transform)
    )


def deepali_exponential(case: Case, velocity: Tensor, *, steps: int = 7) -> Prepared:
    expv = peer("deepali.core.functional").expv
    return Prepared(
        lambda flow: expv(flow, steps=steps, padding="border"), (to_cube(velocity),), from_cube
    )


def gradient_determinant(displacement: Tensor) -> Tensor:
    """``torch.gradient`` and the determinant written out: central inside, one-sided outside."""
    ndim = displacement.shape[1]
    axes = tuple(range(2, 2 + ndim))
    columns = torch.gradient(displacement, dim=axes)
    rows = [[columns[j][:, i] + (i == j) for j in range(ndim)] for i in range(ndim)]
    if ndim == 2:
        return (rows[0][0] * rows[1][1] - rows[0][1] * rows[1][0])[:, None]
    (a, b, c), (d, e, f), (g, h, i) = rows
    return (a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g))[:, None]


def deepali_determinant(case: Case, displacement: Tensor) -> Prepared:
    determinant = peer("deepali.core.functional").jacobian_det
    return Prepared(lambda flow: determinant(flow, mode="central"), (to_cube(displacement),))


def voxelmorph_determinant(case: Case, displacement: Tensor) -> Prepared:
    """NumPy, sample by sample."""
    determinant = peer("voxelmorph.py.utils").jacobian_determinant
    fields = [x.movedim(0, -1).contiguous().numpy() for x in displacement]

    def run(*fields: np.ndarray) -> np.ndarray:
        return np.stack([determinant(field) for field in fields])

    return Prepared(run, tuple(fields), lambda result: torch.from_numpy(result)[:, None])


def sitk_determinant(case: Case, displacement: Tensor) -> Prepared:
    """Central differences of the field continued by its edge: half of ours at the border."""
    sitk = peer("SimpleITK")

    def result(image: Any) -> Tensor:
        return torch.from_numpy(sitk.GetArrayFromImage(image))[None, None]

    return Prepared(sitk.DisplacementFieldJacobianDeterminant, (sitk_image(displacement),), result)
