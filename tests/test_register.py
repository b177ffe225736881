"""Registering two images: tensors, and volumes on the grids of their files."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from drawn_head import bent, centred, grid, head, labels, moved, turned, volume
from image_files import oblique

from plasticine.io import Volume, read_volume, register_volumes, write_image, write_labels
from plasticine.io.volume_registration import VolumeRegistration
from plasticine.metrics import dice
from plasticine.registration import register
from plasticine.registration.pair_registration import PairRegistration

FIXED_SHAPE = (34, 38, 30)
FIXED = centred(np.diag([5.0, 5, 5, 1]), FIXED_SHAPE)
# Oblique, flipped, axes in another order, anisotropic, and of another size.
MOVING_SHAPE = (44, 36, 36)
MOVING = centred(oblique((4.0, 5.0, 4.5), "PLS"), MOVING_SHAPE)
MOVING[:3, 3] += (12, -8, 6)
TURN = turned(14, (6, -5, 9))


def truth(places: np.ndarray) -> np.ndarray:
    """Fixed millimetres to moving millimetres."""
    return moved(bent(places), TURN)


@pytest.fixture(scope="module")
def pair() -> tuple[Volume, Volume]:
    fixed = grid(FIXED_SHAPE, FIXED)
    return (
        volume(head(grid(MOVING_SHAPE, MOVING)), MOVING, "moving.nii.gz"),
        volume(head(truth(fixed)), FIXED, "fixed.nii.gz"),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Label maps of both."""
    folder = tmp_path_factory.mktemp("labels")
    write_labels(folder / "moving.nii.gz", labels(grid(MOVING_SHAPE, MOVING)), MOVING)
    write_labels(folder / "fixed.nii.gz", labels(truth(grid(FIXED_SHAPE, FIXED))), FIXED)
    return folder


@pytest.fixture(scope="module")
def registered(pair: tuple[Volume, Volume], folder: Path) -> VolumeRegistration:
    return register_volumes(
        *pair, moving_labels=folder / "moving.nii.gz", fixed_labels=folder / "fixed.nii.gz"
    )


def places_of(
    field: np.ndarray, shape: tuple[int, int, int], affine: np.ndarray, at: np.ndarray | None = None
) -> np.ndarray:
    """Where a displacement in voxels takes its grid, in millimetres."""
    return moved(np.indices(shape) + field, affine)


def test_a_known_map_is_found_across_grids(registered: VolumeRegistration) -> None:
    fixed = grid(FIXED_SHAPE, FIXED)
    found = places_of(registered.displacement, FIXED_SHAPE, FIXED)
    inside = labels(truth(fixed)) > 0
    error = np.linalg.norm(found - truth(fixed), axis=0)[inside]
    still = np.linalg.norm(fixed - truth(fixed), axis=0)[inside]
    assert still.mean() > 10
    assert error.mean() < 1.5  # of voxels of 5 mm
    difference = np.abs(registered.warped - registered.fixed.data)[inside]
    assert (
        difference.mean() < 0.1 * np.abs(registered.before - registered.fixed.data)[inside].mean()
    )
    assert int(registered.pair.folding.folds) == 0
    for measure in ("lncc", "mutual_information"):
        before, affine, after = (
            registered.similarity[stage][measure] for stage in ("before", "affine", "after")
        )
        assert before < affine < after


def test_the_inverse_is_of_the_moving_grid(registered: VolumeRegistration) -> None:
    assert registered.inverse_displacement.shape == (3, *MOVING_SHAPE)
    back = places_of(registered.inverse_displacement, MOVING_SHAPE, MOVING)
    # Straight through the true map: within the head, where it was found.
    there = truth(back)
    moving = grid(MOVING_SHAPE, MOVING)
    inside = labels(moving) > 0
    assert np.linalg.norm(there - moving, axis=0)[inside].mean() < 1.5
    pair = registered.pair
    # At the moving image's own voxels, and from the fixed image's ones there and back.
    linear = pair.mapping.affine[:, :, :-1]  # type: ignore[index]
    u = pair.inverse.warp(pair.mapping.displacement)
    left = pair.inverse.displacement + torch.bmm(linear, u.flatten(2)).view_as(u)
    assert float(left.norm(dim=1)[0, 2:-2, 2:-2, 2:-2].mean()) < 0.01
    assert float(pair.inverse_consistency().mean()) < 0.02
    assert float(pair.inverse_consistency()[pair.valid].mean()) < 0.05


def test_jacobian_is_of_physical_volume(registered: VolumeRegistration) -> None:
    places = places_of(registered.displacement, FIXED_SHAPE, FIXED)
    gradient = [np.gradient(places[i], 5.0, axis=j) for i in range(3) for j in range(3)]
    matrices = np.stack(gradient, -1).reshape(*FIXED_SHAPE, 3, 3)
    assert np.allclose(registered.jacobian, np.linalg.det(matrices), atol=2e-4)


def test_labels_are_carried(registered: VolumeRegistration) -> None:
    assert registered.labels is not None
    assert registered.fixed_labels is not None
    values = {0, 10, 11, 12, 13, 14, 15, 16, 17, 300}
    assert set(np.unique(registered.labels)) <= values
    scores = dice(torch.from_numpy(registered.labels), torch.from_numpy(registered.fixed_labels))
    assert scores.keys() == values - {0}
    assert min(scores.values()) > 0.75
    assert sum(scores.values()) / len(scores) > 0.85


@pytest.mark.parametrize("transform", ["rigid", "similarity"])
def test_an_affine_stage_alone(pair: tuple[Volume, Volume], transform: str) -> None:
    fixed = grid(FIXED_SHAPE, FIXED)
    scale = 1.1 if transform == "similarity" else 1.0
    matrix = TURN @ np.diag([scale, scale, scale, 1])
    target = volume(head(moved(fixed, matrix)), FIXED)
    result = register_volumes(pair[0], target, transform=transform)
    inside = labels(moved(fixed, matrix)) > 0
    error = np.linalg.norm(moved(fixed, result.affine) - moved(fixed, matrix), axis=0)
    assert error[inside].mean() < 0.7
    linear = result.affine[:3, :3]
    size = np.cbrt(np.linalg.det(linear))
    assert np.allclose(linear @ linear.T, size**2 * np.eye(3), atol=1e-6)
    assert size == pytest.approx(scale, abs=0.02)
    assert np.allclose(result.jacobian, size**3, atol=1e-3)
    assert not result.pair.mapping.displacement.any()
    assert not result.displacement_lengths.any()
    found = places_of(result.displacement, FIXED_SHAPE, FIXED)
    assert np.allclose(found, moved(fixed, result.affine), atol=1e-3)


def test_an_initial_map_is_begun_from(pair: tuple[Volume, Volume]) -> None:
    """The headers put the fixed head half a metre away and upside down."""
    far = turned(170, (300, -400, 500))
    affine = np.linalg.inv(far) @ FIXED
    fixed = volume(head(grid(FIXED_SHAPE, FIXED)), affine)
    near = turned(3, (4, -3, 2)) @ far
    result = register_volumes(pair[0], fixed, transform="rigid", initial=near)
    assert result.pair.affine.start == "initial"
    places = grid(FIXED_SHAPE, affine)[:, fixed.data > 50]
    assert np.linalg.norm(moved(places, result.affine) - moved(places, far), axis=0).mean() < 0.7


def test_masks_are_heeded(pair: tuple[Volume, Volume], tmp_path: Path) -> None:
    moving, fixed = pair
    blot = moving.data.copy()
    places = grid(MOVING_SHAPE, MOVING)
    spoilt = np.linalg.norm(places - np.array([20, 60, 20])[:, None, None, None], axis=0) < 32
    blot[spoilt] = 255 * np.random.default_rng(0).random(int(spoilt.sum()))
    write_image(tmp_path / "mask.nii.gz", (~spoilt).astype(np.float32), MOVING)
    moving = volume(blot, MOVING)
    errors = []
    for mask in (None, tmp_path / "mask.nii.gz"):
        result = register_volumes(moving, fixed, moving_mask=mask, budget="fast")
        here = grid(FIXED_SHAPE, FIXED)
        inside = labels(truth(here)) > 0
        found = places_of(result.displacement, FIXED_SHAPE, FIXED)
        errors.append(np.linalg.norm(found - truth(here), axis=0)[inside].mean())
    assert errors[1] < errors[0]


def slice_of(places: np.ndarray, affine: np.ndarray, name: str = "a.nii.gz") -> Volume:
    return volume(head(places), affine, name)


def test_slices_in_planes_of_their_own() -> None:
    """A sagittal-like oblique plane; the moving slice is flipped, finer and 7 mm further."""
    shape = (64, 1, 60)
    fixed_affine = centred(oblique((2.5, 3.0, 2.5), "RAS"), shape)
    flip = np.eye(4)
    flip[0, 0], flip[0, 3] = -1, shape[0] - 1
    moving_shape = (*(shape[:1]), shape[2], 1)  # the axis across is another
    moving_affine = (fixed_affine @ flip)[:, [0, 2, 1, 3]]
    across = fixed_affine[:3, 1] / np.linalg.norm(fixed_affine[:3, 1])
    moving_affine[:3, 3] += 7 * across
    turn = np.eye(4)  # within the plane
    angle = np.radians(10)
    along = np.stack([fixed_affine[:3, i] / 2.5 for i in (0, 2)], 1)
    turn[:3, :3] += (
        along
        @ (np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) - np.eye(2))
        @ along.T
    )
    turn[:3, 3] = 7 * across + along @ np.array([6.0, -4.0])
    fixed_places = grid(shape, fixed_affine)
    moving = slice_of(grid(moving_shape, moving_affine), moving_affine)
    fixed = slice_of(moved(fixed_places, turn), fixed_affine)
    result = register_volumes(moving, fixed, transform="rigid")
    assert result.warped.shape == shape
    error = np.linalg.norm(moved(fixed_places, result.affine) - moved(fixed_places, turn), axis=0)
    assert error[fixed.data > 50].mean() < 0.5
    # The displacement has the way across in it, which the files' readers need.
    found = places_of(result.displacement, shape, fixed_affine)
    assert np.allclose(found, moved(fixed_places, result.affine), atol=1e-3)
    back = places_of(result.inverse_displacement, moving_shape, moving_affine)
    moving_places = grid(moving_shape, moving_affine)
    assert np.allclose(back, moved(moving_places, np.linalg.inv(result.affine)), atol=2e-3)


def test_labels_of_any_size_and_none_beyond_the_map(tmp_path: Path) -> None:
    """A map without a background, whose image is shifted half out of view."""
    image = (255 * np.random.default_rng(1).random((60, 44))).astype(np.float32)
    image = image.repeat(3, 0).repeat(3, 1)[:, :120]
    many = np.full((120, 120), 2**40 + 1)
    many[:40] = -7
    np.save(tmp_path / "moving.npy", image[:120])
    np.save(tmp_path / "fixed.npy", image[30:150])
    np.save(tmp_path / "labels.npy", many)
    result = register_volumes(
        read_volume(tmp_path / "moving.npy"),
        read_volume(tmp_path / "fixed.npy"),
        transform="rigid",
        moving_labels=tmp_path / "labels.npy",
    )
    assert result.labels is not None
    assert np.array_equal(result.labels[:8, 5:-5, 0], many[30:38, 5:-5])
    assert (result.labels[12:88, 5:-5] == 2**40 + 1).all()
    assert not result.labels[92:, 5:-5].any()
    assert not result.valid[92:].any()
    assert (result.warped[92:] == image[:120].min()).all()


REFUSED = {
    "a slice and a volume": ({"moving": (20, 20, 1)}, "both be single slices|both be volumes"),
    "a line": ({"moving": (20, 1, 1)}, "expected a slice or a volume"),
    "nothing to see": ({"flat": True}, "everywhere, there is nothing to register"),
    "a transform": ({"transform": "elastic"}, "transform must be one of rigid"),
    "a budget": ({"budget": "huge"}, "budget must be one of fast, default, best"),
    "a metric": ({"metric": "nmi"}, "metric must be one of"),
    "labels": ({"fixed_labels": Path("a.nii.gz")}, "compared with those of the moving"),
    "a matrix": ({"initial": np.eye(3)}, r"expected a matrix \(4, 4\)"),
    "no matrix": ({"initial": np.full((4, 4), np.nan)}, "finite"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    options, message = REFUSED[case]
    options = dict(options)
    shape = options.pop("moving", (12, 14, 13))
    data = np.random.default_rng(0).random(shape).astype(np.float32)
    if options.pop("flat", False):
        data[:] = 3
    other = np.random.default_rng(1).random((12, 13, 14)).astype(np.float32)
    with pytest.raises(ValueError, match=message):
        register_volumes(volume(data, np.eye(4)), volume(other, np.eye(4)), **options)


def test_slices_that_cross_are_refused() -> None:
    data = np.random.default_rng(0).random((20, 20, 1)).astype(np.float32)
    across = np.eye(4)[:, [0, 2, 1, 3]]
    with pytest.raises(ValueError, match="across each other in space, by 90 degrees"):
        register_volumes(volume(data, np.eye(4)), volume(data, across))


def test_an_empty_mask_is_refused(pair: tuple[Volume, Volume], tmp_path: Path) -> None:
    write_image(tmp_path / "mask.nii.gz", np.zeros(FIXED_SHAPE, np.float32), FIXED)
    with pytest.raises(ValueError, match="the mask is empty"):
        register_volumes(*pair, fixed_mask=tmp_path / "mask.nii.gz")
    with pytest.raises(ValueError, match="expected the input's shape"):
        register_volumes(*pair, moving_mask=tmp_path / "mask.nii.gz")


def test_tensors_without_affines() -> None:
    """Voxels of 1 mm; progress ends at its total; the same bits every time."""
    places = grid((48, 44, 1), centred(np.diag([3.0, 3, 3, 1]), (48, 44, 1)))
    fixed = torch.from_numpy(head(places))[None, None, ..., 0]
    moving = torch.from_numpy(head(moved(places, turned(0, (9, 0, 0)))))[None, None, ..., 0]
    seen: list[tuple[int, int]] = []

    def found() -> PairRegistration:
        return register(
            moving, fixed, budget="fast", progress=lambda done, total: seen.append((done, total))
        )

    one = found()
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    inside = fixed[0, 0] > 50
    assert float((one.displacement[0, 0][inside] + 3).abs().mean()) < 0.3
    assert float(one.displacement[0, 1][inside].abs().mean()) < 0.3
    assert torch.equal(one.displacement, found().displacement)


@pytest.mark.parametrize("contrast", ["other", "brighter", "inverted"])
def test_unlike_contrasts_are_seen_and_followed_less_freely(
    pair: tuple[Volume, Volume], contrast: str
) -> None:
    """Of one head, deformed: bright and dark exchanged inside, but air as dark as before."""
    values = pair[0].data.astype(np.float64)
    mapped = {
        "other": values * (190 - values) / 90,
        "brighter": 3 * values**0.7,
        "inverted": 255 - values,
    }[contrast]
    fixed = pair[1]
    result = register_volumes(volume(mapped.astype(np.float32), MOVING), fixed)
    assert result.pair.contrasts_differ is (contrast == "other")
    places = grid(FIXED_SHAPE, FIXED)
    inside = labels(truth(places)) > 0
    found = places_of(result.displacement, FIXED_SHAPE, FIXED)
    assert np.linalg.norm(found - truth(places), axis=0)[inside].mean() < 4
    assert int(result.pair.folding.folds) == 0


@pytest.mark.parametrize(
    ("values", "dtype"),
    [((0, 255), "uint8"), ((-1, 7), "int16"), ((0, 70000), "int32"), ((0, 2**40), "int64")],
)
def test_labels_are_written_narrowly_and_exactly(
    tmp_path: Path, values: tuple[int, int], dtype: str
) -> None:
    array = np.array(values, dtype=np.int64).reshape(2, 1, 1)
    write_labels(tmp_path / "a.nii.gz", array, np.eye(4))
    image = nibabel.load(tmp_path / "a.nii.gz")
    assert image.get_data_dtype() == dtype
    assert np.array_equal(np.asarray(image.dataobj), array)
