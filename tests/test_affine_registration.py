"""The affine registration: known maps are found again, whatever the grids and the contrasts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from refusal import refuses
from torch import Tensor

from plasticine import warp
from plasticine.registration import AffineMap, AffineRegistration
from plasticine.registration.affine_objective import TRANSFORMS, generators
from plasticine.registration.affine_starts import even_rotations
from plasticine.registration.quasi_newton import descend

QUICK: dict[str, Any] = {"levels": (12.0, 6.0)}


def _head(folder: Path, name: str) -> tuple[Tensor, Tensor]:
    """An image (1, 1, *spatial) and where it lies."""
    file = nibabel.load(folder / "brain_t1_labels" / f"{name}_t1.nii.gz")
    image = torch.from_numpy(np.asarray(file.dataobj, dtype=np.float32))
    return image[None, None], torch.from_numpy(file.affine).double()


def _picture(folder: Path, name: str) -> Tensor:
    pixels = np.asarray(Image.open(folder / "brain_2d" / name).convert("L"), dtype=np.float32)
    return torch.from_numpy(pixels)[None, None]


def _turn(degrees: float, axis: tuple[float, float, float], shift: tuple[float, ...]) -> Tensor:
    """A turn about an axis through the origin and then a shift, (4, 4)."""
    x, y, z = (value / math.hypot(*axis) for value in axis)
    skew = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = torch.linalg.matrix_exp(math.radians(degrees) * skew)
    matrix[:3, 3] = torch.tensor(shift, dtype=torch.float64)
    return matrix


def _resampled(
    image: Tensor, affine: Tensor, size: tuple[int, ...], other: Tensor, physical: Tensor
) -> Tensor:
    """The image as it shows on the grid ``other`` of ``size``, whose places ``physical`` maps."""
    ndim = len(size)
    voxels = (torch.linalg.inv(affine) @ physical @ other)[None, :-1].float()
    places = torch.zeros(1).expand(1, ndim, *size)
    return warp(image, places, affine=voxels, padding="zeros")


def _apart(found: AffineMap, truth: Tensor, size: tuple[int, ...], affine: Tensor) -> float:
    """Millimetres between two maps in the middle half of a fixed image, on average."""
    grids = torch.meshgrid(
        *(torch.linspace(0.25 * n, 0.75 * n, 5, dtype=torch.float64) for n in size), indexing="ij"
    )
    index = torch.stack([*(grid.flatten() for grid in grids), torch.ones(5 ** len(size))])
    places = affine @ index.double()
    return float(((found.physical - truth) @ places)[:-1].norm(dim=0).mean())


# An oblique grid with flipped axes, thick slices and another size than the head's.
OBLIQUE = _turn(20, (1, 2, 0), (70.0, -125.0, -110.0)) @ torch.diag(
    torch.tensor([-1.9, 2.4, 4.0, 1.0], dtype=torch.float64)
)
SIZE = (88, 104, 58)


@pytest.fixture(scope="module")
def head(data_folder: Path) -> tuple[Tensor, Tensor]:
    return _head(data_folder, "IXI012")


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_known_map_between_unlike_grids_is_found(
    head: tuple[Tensor, Tensor], transform: str
) -> None:
    image, affine = head
    truth = _turn(25, (1, -1, 2), (12.0, -20.0, 9.0))
    if transform != "rigid":
        truth[:3, :3] *= 1.08
    if transform == "affine":
        truth[:3, :3] @= torch.tensor(
            [[1.05, 0.06, 0.0], [0.0, 0.95, -0.05], [0.0, 0.0, 1.0]], dtype=torch.float64
        )
    fixed = _resampled(image, affine, SIZE, OBLIQUE, truth)
    found = AffineRegistration(transform)(image, fixed, affine, OBLIQUE)
    assert _apart(found, truth, SIZE, OBLIQUE) < 0.3
    linear = found.physical[:3, :3]
    if transform != "affine":
        scale = torch.linalg.det(linear) ** (2 / 3)
        torch.testing.assert_close(linear @ linear.T, scale * torch.eye(3).double())
        assert transform == "similarity" or scale == pytest.approx(1)
    torch.testing.assert_close(found.physical[3], torch.tensor([0.0, 0, 0, 1]).double())
    voxels = torch.linalg.inv(affine) @ found.physical @ OBLIQUE
    torch.testing.assert_close(found.voxels, voxels[:3])
    torch.testing.assert_close(found.inverse_voxels, torch.linalg.inv(voxels)[:3])


@pytest.mark.parametrize("shift", [(40.0, 0.0, 0.0), (0.0, -20.0, 40.0)])
def test_large_turns_and_shifts_of_another_head_change_nothing(
    head: tuple[Tensor, Tensor], data_folder: Path, shift: tuple[float, ...]
) -> None:
    image, affine = head
    fixed, fixed_affine = _head(data_folder, "IXI013")
    register = AffineRegistration(**QUICK)
    plain = register(image, fixed, affine, fixed_affine)
    moved = _turn(30, (1, 0, 1), shift)
    found = register(image, fixed, moved @ affine, fixed_affine)
    assert _apart(found, moved @ plain.physical, tuple(fixed.shape[2:]), fixed_affine) < 1.5


def test_storing_an_image_otherwise_changes_nothing(
    head: tuple[Tensor, Tensor], data_folder: Path
) -> None:
    image, affine = head
    fixed, fixed_affine = _head(data_folder, "IXI014")
    register = AffineRegistration(**QUICK)
    plain = register(image, fixed, affine, fixed_affine)
    flip = torch.eye(4, dtype=torch.float64)
    flip[0, 0], flip[0, 3] = -1, image.shape[2] - 1
    turned = image.flip(2).transpose(3, 4).contiguous()
    swap = torch.eye(4, dtype=torch.float64)[[0, 2, 1, 3]]
    found = register(turned, fixed, affine @ flip @ swap, fixed_affine)
    assert _apart(found, plain.physical, tuple(fixed.shape[2:]), fixed_affine) < 0.2


@pytest.mark.parametrize("metric", ["mutual_information", "lncc"])
def test_another_contrast(data_folder: Path, metric: str) -> None:
    with np.load(data_folder / "brain_t1_t2_flair" / "slices_2mm_112px.npz") as file:
        t1, t2 = (torch.from_numpy(file[f"{name}_07"])[None, None].float() for name in ("T1", "T2"))
    affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])).double()
    affine[:3, 3] = -100.0
    truth = _turn(-20, (1, 1, 0), (15.0, 10.0, -25.0))
    found = AffineRegistration("rigid", metric)(t1, t2, truth @ affine, affine)
    assert _apart(found, truth, tuple(t2.shape[2:]), affine) < 0.8


def test_a_slab_is_found_in_the_whole(head: tuple[Tensor, Tensor]) -> None:
    image, affine = head
    start = torch.eye(4, dtype=torch.float64)
    start[1, 3] = 66
    slab = image[:, :, :, 66:96].contiguous()
    # The header knows nothing of where it lay.
    found = AffineRegistration("rigid", **QUICK)(slab, image, affine, affine)
    truth = affine @ torch.linalg.inv(start) @ torch.linalg.inv(affine)
    middle = affine @ torch.tensor([60.0, 81.0, 45.0, 1.0], dtype=torch.float64)
    assert float(((found.physical - truth) @ middle).norm()) < 2


@pytest.mark.parametrize("tilt", [0, -30])
def test_the_liver_of_a_slab_is_found_in_another_modality(data_folder: Path, tilt: float) -> None:
    """A CT of one person, an MR of 20 slices of another; mutual information goes elsewhere."""
    folder = data_folder / "abdomen_mr_ct"
    arrays, affines = [], []
    for name in ("example_ct", "example_mr_sm"):
        file = nibabel.load(folder / f"{name}.nii.gz")
        arrays.append(torch.from_numpy(np.asarray(file.dataobj, dtype=np.float32))[None, None])
        affines.append(torch.from_numpy(file.affine).double())
    ct, mr = (
        torch.from_numpy(np.asarray(nibabel.load(folder / f"{name}.nii.gz").dataobj) == 5)
        for name in ("example_seg_fast_force_split", "example_seg_mr")
    )
    affines[0] = _turn(tilt, (1, 0, 0), (0.0, 0.0, 0.0)) @ affines[0]
    found = AffineRegistration()(*arrays, *affines)
    carried = _resampled(
        ct[None, None].float(), affines[0], tuple(mr.shape), affines[1], found.physical
    )
    both = (carried[0, 0] > 0.5) & mr
    assert 2 * both.sum() / ((carried > 0.5).sum() + mr.sum()) > 0.5


def test_masks_leave_out_what_they_do_not_cover(head: tuple[Tensor, Tensor]) -> None:
    image, affine = head
    truth = _turn(8, (0, 1, 0), (5.0, 0.0, -6.0))
    fixed = _resampled(image, affine, SIZE, OBLIQUE, truth)
    noise = 500 * torch.rand(fixed.shape, generator=torch.Generator().manual_seed(0))
    masks = [torch.zeros_like(fixed), torch.zeros_like(image)]
    masks[0][:, :, 20:60, 20:80, 10:50] = 1
    masks[1][:, :, 10:110, 10:110, 10:80] = 1
    register = AffineRegistration("rigid", **QUICK)
    found = register(
        image,
        torch.where(masks[0] > 0, fixed, noise),
        affine,
        OBLIQUE,
        fixed_mask=masks[0],
        moving_mask=masks[1] > 0,
    )
    assert _apart(found, truth, SIZE, OBLIQUE) < 1


def test_an_initial_map_is_where_it_begins(head: tuple[Tensor, Tensor]) -> None:
    image, affine = head
    truth = _turn(100, (0, 0, 1), (30.0, 0.0, 0.0))
    stretch = torch.diag(torch.tensor([1.3, 0.8, 1.0, 1.0], dtype=torch.float64))
    fixed = _resampled(image, affine, SIZE, OBLIQUE, truth @ stretch)
    near = truth @ stretch @ _turn(5, (1, 0, 0), (6.0, 2.0, 0.0))
    found = AffineRegistration("rigid")(image, fixed, affine, OBLIQUE, initial=near)
    assert found.start == "initial"
    assert _apart(found, truth @ stretch, SIZE, OBLIQUE) < 0.3


def test_rotations_on_request_find_a_head_upside_down(head: tuple[Tensor, Tensor]) -> None:
    image, affine = head
    truth = _turn(180, (1, 0, 0), (0.0, 0.0, -30.0))
    fixed = _resampled(image, affine, tuple(image.shape[2:]), affine, truth)
    register = AffineRegistration("rigid", starts=("mass",), rotations=24, **QUICK)
    assert _apart(register(image, fixed, affine, affine), truth, SIZE, affine) < 1


@pytest.mark.parametrize("shift", [(90, -20), (-50, 40)])
def test_retinas_shifted_by_a_third_of_the_picture(
    data_folder: Path, shift: tuple[int, int]
) -> None:
    """What is shifted out is lost, and the rest is noisy."""
    path = data_folder / "oct_layers" / "im1111_img.png"
    scan = torch.from_numpy(np.asarray(Image.open(path), dtype=np.float32)[::4, ::2].copy())
    moving = scan[None, None]
    places = torch.zeros(1).expand(1, 2, *scan.shape)
    map_ = torch.tensor([[[1.0, 0, shift[0]], [0, 1.0, shift[1] // 2]]])
    noise = torch.randn(moving.shape, generator=torch.Generator().manual_seed(0))
    fixed = warp(moving, places, affine=map_, padding="zeros") + 8 * noise
    found = AffineRegistration()(moving, fixed)
    affine = torch.eye(3, dtype=torch.float64)
    truth = torch.cat([map_[0].double(), affine[2:]])
    assert _apart(found, truth, tuple(scan.shape), affine) < 0.5


@pytest.mark.parametrize(
    ("fixed", "metric", "pixels"),
    [
        ("BrainProtonDensitySliceBorder20", "lncc", 0.1),
        ("BrainT1SliceBorder20", "lncc", 0.2),
        ("BrainT1SliceBorder20", "mutual_information", 0.1),
    ],
)
@pytest.mark.parametrize("double", [False, True])
def test_pictures_whose_names_tell_the_shift(
    data_folder: Path, fixed: str, metric: str, pixels: float, double: bool
) -> None:
    moving = _picture(data_folder, "BrainProtonDensitySliceShifted13x17y.png")
    picture = _picture(data_folder, f"{fixed}.png")
    if double:
        moving, picture = moving.double(), picture.double()
    found = AffineRegistration("rigid", metric)(moving, picture)
    centre = torch.tensor([(n - 1) / 2 for n in picture.shape[2:]], dtype=torch.float64)
    shift = found.voxels[:, :2] @ centre + found.voxels[:, 2] - centre
    torch.testing.assert_close(shift, torch.tensor([17.0, 13.0]).double(), atol=pixels, rtol=0)
    assert abs(math.degrees(math.asin(float(found.voxels[1, 0])))) < 0.2


def test_pictures_of_two_channels_whose_name_tells_the_turn(data_folder: Path) -> None:
    moving = _picture(data_folder, "BrainProtonDensitySliceR10X13Y17.png")
    fixed = _picture(data_folder, "BrainProtonDensitySliceBorder20.png")
    register = AffineRegistration("rigid")
    found = register(torch.cat([moving, -2 * moving], 1), torch.cat([fixed, fixed.sqrt()], 1))
    assert math.degrees(math.asin(float(found.voxels[1, 0]))) == pytest.approx(-10, abs=0.2)


def test_mind_finds_a_small_shift_of_a_picture(data_folder: Path) -> None:
    fixed = _picture(data_folder, "BrainProtonDensitySliceBorder20.png")
    moving = 255 - fixed.roll((6, -4), (2, 3))
    found = AffineRegistration("rigid", "mind")(moving, fixed)
    assert found.value < 0
    torch.testing.assert_close(
        found.voxels, torch.tensor([[1.0, 0, 6], [0, 1, -4]]).double(), atol=0.2, rtol=0.01
    )


def test_the_same_every_time_in_any_mode_and_told_of(data_folder: Path) -> None:
    moving = _picture(data_folder, "r64slice.jpg")
    fixed = _picture(data_folder, "r16slice.jpg")
    told: list[tuple[int, int]] = []
    register = AffineRegistration(starts=("centre", "axes"))
    found = register(moving, fixed, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, len(told)) for done in range(1, len(told) + 1)]
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            again = register(moving.clone(), fixed.clone())
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found.physical, again.physical)
    assert found.value == again.value
    assert not found.physical.requires_grad


def test_flat_and_tiny_images_end_where_they_begin() -> None:
    for shape in ((1, 1, 5, 1), (1, 1, 2, 3, 4), (1, 1, 16, 16)):
        found = AffineRegistration("rigid")(torch.ones(shape), torch.ones(shape))
        assert found.physical.isfinite().all()


def test_what_does_not_fit_is_refused() -> None:
    image = torch.rand(1, 1, 12, 12, 12)
    register = AffineRegistration()
    refuses(TypeError, "moving must be a torch.Tensor", register, image.numpy(), image)
    refuses(TypeError, "moving must be float32 or float64", register, image.half(), image)
    refuses(ValueError, "one pair is", register, *[image.repeat(2, 1, 1, 1, 1)] * 2)
    refuses(TypeError, "one dtype", register, image, image.double())
    refuses(ValueError, "the same N and C", register, image, image.repeat(1, 2, 1, 1, 1))
    refuses(ValueError, "with 2 or 3 axes", register, image, image[..., 0])
    refuses(ValueError, "finite", register, image / 0, image)
    refuses(ValueError, r"moving_affine must be \(4, 4\)", register, image, image, torch.eye(3))
    flat = torch.diag(torch.tensor([1.0, 1.0, 0.0, 1.0]))
    refuses(ValueError, "fixed_affine must be .*invertible", register, image, image, None, flat)
    refuses(ValueError, "initial must be", register, image, image, initial=torch.eye(4) * 2)
    refuses(ValueError, "fixed_mask must be", register, image, image, fixed_mask=image[..., 1:])
    refuses(ValueError, "count some", register, image, image, moving_mask=torch.zeros_like(image))
    refuses(ValueError, "transform must be of", AffineRegistration, "projective")
    refuses(ValueError, "metric must be of", AffineRegistration, metric="ssd")
    refuses(ValueError, "starts must be of", AffineRegistration, starts=("luck",))
    refuses(ValueError, "needs a start", AffineRegistration, starts=())
    refuses(ValueError, "levels must be positive and fall", AffineRegistration, levels=(2, 4))


@pytest.mark.parametrize(("ndim", "counts"), [(2, (3, 4, 6)), (3, (6, 7, 12))])
def test_generators_move_points_by_a_unit_each(ndim: int, counts: tuple[int, ...]) -> None:
    index = torch.arange(-5.0, 6.0, dtype=torch.float64)
    points = torch.stack(
        [grid.flatten() for grid in torch.meshgrid(*[index] * ndim, indexing="ij")]
    )
    points = torch.cat([points, torch.ones(1, points.shape[1], dtype=torch.float64)])
    for transform, count in zip(TRANSFORMS, counts, strict=True):
        found = generators(ndim, transform, float(index.square().mean().sqrt()))
        assert len(found) == count
        assert torch.linalg.matrix_rank(found.flatten(1)) == count
        moved = (found @ points).square().sum(1).mean(1).sqrt()
        torch.testing.assert_close(moved, torch.ones(count).double())


@pytest.mark.parametrize(("ndim", "count", "furthest"), [(2, 12, 15.1), (3, 60, 61.0)])
def test_even_rotations_leave_no_gap(ndim: int, count: int, furthest: float) -> None:
    rotations = torch.stack(even_rotations(ndim, count))
    identity = torch.eye(ndim, dtype=torch.float64)
    torch.testing.assert_close(rotations @ rotations.mT, identity.expand(count, ndim, ndim))
    drawn = torch.randn(2000, ndim, ndim, generator=torch.Generator().manual_seed(0)).double()
    turns = torch.linalg.matrix_exp(3 * (drawn - drawn.mT))
    trace = torch.einsum("nij,kij->nk", turns, rotations)
    cosine = trace / 2 if ndim == 2 else (trace - 1) / 2
    angles = torch.rad2deg(cosine.amax(1).clamp(-1, 1).acos())
    assert float(angles.max()) < furthest


def test_the_descent_finds_a_curved_valley_s_end() -> None:
    def function(x: np.ndarray) -> tuple[float, np.ndarray]:
        value = 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2
        gradient = [-400 * x[0] * (x[1] - x[0] ** 2) - 2 * (1 - x[0]), 200 * (x[1] - x[0] ** 2)]
        return float(value), np.array(gradient)

    start = np.array([-1.2, 1.0])
    found, value = descend(function, start, first=0.1, longest=1.0, shortest=1e-8, evaluations=200)
    np.testing.assert_allclose(found, 1, atol=1e-6)
    assert value < 1e-10
    stopped, value = descend(function, start, first=0.1, longest=1.0, shortest=1e-8, evaluations=5)
    assert value < function(start)[0]
    assert not np.allclose(stopped, 1, atol=0.1)


def test_the_descent_turns_back_where_there_is_no_value() -> None:
    def function(x: np.ndarray) -> tuple[float, np.ndarray]:
        if x[0] > 0.5:
            return math.nan, np.full(1, math.nan)
        return float(-x[0]), np.full(1, -1.0)

    found, _ = descend(function, np.zeros(1), first=1.0, longest=1.0, shortest=1e-3, evaluations=60)
    assert 0.4 < found[0] <= 0.5
