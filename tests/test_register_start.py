"""Where a registration begins: transforms of other programs, and of ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (its users' name for it)
import torch
from drawn_head import bent, centred, grid, head, moved, turned, volume
from image_files import TO_RAS, oblique
from PIL import Image

from plasticine.io import Volume, read_volume, register_volumes, write_displacement, write_image
from plasticine.io.initial import Start, start_from
from plasticine.io.itk import LPS
from plasticine.io.orientation import PICTURE_ORIENTATION
from plasticine.io.pair_space import PairSpace
from plasticine.registration import register
from plasticine.registration.deformation import affine_displacement, nearest_affine

FIXED_SHAPE = (26, 30, 24)
FIXED = centred(oblique((-6.0, 5.5, 6.5), "SAR"), FIXED_SHAPE)
MOVING_SHAPE = (32, 28, 30)
MOVING = centred(oblique((5.5, 6.0, 5.0), "PLI"), MOVING_SHAPE)
TURN = turned(25, (12, -7, 9))


@pytest.fixture(scope="module")
def pair() -> tuple[Volume, Volume]:
    """Both oblique, one flipped by a negative spacing, axes in other orders."""
    fixed = moved(bent(grid(FIXED_SHAPE, FIXED)), TURN)
    return (
        volume(head(grid(MOVING_SHAPE, MOVING)), MOVING, "moving.nii.gz"),
        volume(head(fixed), FIXED, "fixed.nii.gz"),
    )


def begun(initial: object, pair: tuple[Volume, Volume]) -> Start:
    return start_from(initial, *pair, PairSpace.of(*pair))  # type: ignore[arg-type]


def whole(field: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Where a displacement in voxels takes its grid, millimetres (RAS+)."""
    return moved(np.indices(field.shape[1:]) + field, affine)


def by_itk(transform: sitk.Transform, places: np.ndarray) -> np.ndarray:
    """Points (3, N) in RAS+."""
    flipped = TO_RAS[:3, :3] @ places
    found = [transform.TransformPoint(place.tolist()) for place in flipped.T]
    return TO_RAS[:3, :3] @ np.array(found).T


@pytest.mark.parametrize("suffix", ["tfm", "mat"])
def test_an_affine_of_itk(tmp_path: Path, pair: tuple[Volume, Volume], suffix: str) -> None:
    transform = sitk.Euler3DTransform((10, -20, 5), 0.3, -0.2, 0.5, (4, 5, -6))
    sitk.WriteTransform(transform, str(tmp_path / f"a.{suffix}"))
    matrix = begun(tmp_path / f"a.{suffix}", pair).matrix
    assert matrix is not None
    places = np.random.default_rng(0).normal(scale=50, size=(3, 6))
    assert np.allclose(moved(places, matrix.numpy()), by_itk(transform, places), atol=1e-8)


def test_a_plain_matrix_is_in_ras(tmp_path: Path, pair: tuple[Volume, Volume]) -> None:
    np.savetxt(tmp_path / "greedy.mat.txt", TURN)
    matrix = begun(tmp_path / "greedy.mat.txt", pair).matrix
    assert matrix is not None
    assert np.allclose(matrix.numpy(), TURN, atol=1e-12)
    both = begun([tmp_path / "greedy.mat.txt"] * 2, pair).matrix
    assert both is not None
    assert np.allclose(both.numpy(), TURN @ TURN, atol=1e-12)


def itk_field() -> sitk.Image:
    """Smooth, on a grid of its own: oblique, and larger than the fixed image."""
    shape = (28, 26, 30)
    affine = centred(oblique((9.0, 9.0, 9.0), "LPS"), shape)
    places = grid(shape, affine)
    shift = TO_RAS[:3, :3] @ (moved(bent(places), turned(8, (3, 2, 1))) - places).reshape(3, -1)
    field = sitk.GetImageFromArray(
        shift.reshape(3, *shape).transpose(3, 2, 1, 0).copy(), isVector=True
    )
    lps = TO_RAS @ affine
    size = np.linalg.norm(lps[:3, :3], axis=0)
    field.SetSpacing(size.tolist())
    field.SetDirection((lps[:3, :3] / size).ravel().tolist())
    field.SetOrigin(lps[:3, 3].tolist())
    return field


@pytest.mark.parametrize("chain", ["field", "field, affine", "affine, field"])
def test_a_field_of_itk(tmp_path: Path, pair: tuple[Volume, Volume], chain: str) -> None:
    """Read from files that SimpleITK wrote, in the order of antsApplyTransforms."""
    affine = sitk.Euler3DTransform((10, -20, 5), 0.1, -0.2, 0.15, (4, 5, -6))
    field = itk_field()
    sitk.WriteImage(field, str(tmp_path / "field.nii.gz"))
    sitk.WriteTransform(affine, str(tmp_path / "affine.tfm"))
    names = chain.split(", ")
    files = [tmp_path / f"{name}.{'nii.gz' if name == 'field' else 'tfm'}" for name in names]
    transforms = {"field": sitk.DisplacementFieldTransform(field), "affine": affine}
    start = begun(files, pair)
    assert start.matrix is None
    assert start.displacement is not None
    found = whole(start.displacement[0].numpy(), FIXED)
    for index in ((3, 4, 5), (13, 15, 12), (20, 7, 18), (22, 25, 3)):
        place = grid(FIXED_SHAPE, FIXED)[(slice(None), *index)][:, None]
        for name in names:
            place = by_itk(transforms[name], place)
        assert np.allclose(found[(slice(None), *index)], place[:, 0], atol=2e-3)


def test_ants_finds_and_we_begin(tmp_path: Path, pair: tuple[Volume, Volume]) -> None:
    ants = pytest.importorskip("ants")
    pandas = pytest.importorskip("pandas")
    for name, image in zip(("moving", "fixed"), pair, strict=True):
        write_image(tmp_path / f"{name}.nii.gz", image.data, image.affine)
    images = {
        name: ants.image_read(str(tmp_path / f"{name}.nii.gz")) for name in ("moving", "fixed")
    }
    found = ants.registration(
        images["fixed"], images["moving"], "SyN", outprefix=str(tmp_path / "ants"),
        reg_iterations=(20, 10, 0), random_seed=1,
    )  # fmt: skip
    files = [Path(file) for file in found["fwdtransforms"]]
    assert [file.name for file in files] == ["ants1Warp.nii.gz", "ants0GenericAffine.mat"]
    start = begun(files, pair)
    assert start.displacement is not None
    ours = whole(start.displacement[0].numpy(), FIXED)
    indices = [(8, 9, 7), (13, 15, 12), (18, 10, 15)]
    places = np.array([grid(FIXED_SHAPE, FIXED)[(slice(None), *i)] for i in indices])
    table = pandas.DataFrame(places @ TO_RAS[:3, :3], columns=["x", "y", "z"])
    theirs = ants.apply_transforms_to_points(3, table, found["fwdtransforms"])
    theirs = theirs[["x", "y", "z"]].to_numpy() @ TO_RAS[:3, :3]
    mine = np.array([ours[(slice(None), *i)] for i in indices])
    assert np.abs(theirs - places).max() > 5
    assert np.allclose(mine, theirs, atol=5e-3)
    result = register_volumes(*pair, initial=files, budget="fast")
    assert result.pair.affine.start == "initial displacement"
    inside = head(moved(bent(grid(FIXED_SHAPE, FIXED)), TURN)) > 40
    error = np.linalg.norm(
        whole(result.displacement, FIXED) - moved(bent(grid(FIXED_SHAPE, FIXED)), TURN), axis=0
    )
    assert error[inside].mean() < 2
    assert int(result.pair.folding.folds) == 0


def test_our_own_field_goes_on(tmp_path: Path, pair: tuple[Volume, Volume]) -> None:
    """Far from where the starts would lead: what the field says is kept."""
    moving, fixed = pair
    far = turned(170, (300, -400, 500))
    affine = np.linalg.inv(far) @ FIXED
    fixed = volume(fixed.data, affine, "fixed.nii.gz")
    first = register_volumes(moving, fixed, initial=TURN @ far, budget="fast")
    write_displacement(tmp_path / "a.nii.gz", first.displacement, affine)
    start = begun(tmp_path / "a.nii.gz", (moving, fixed))
    assert start.displacement is not None
    assert np.allclose(start.displacement[0].numpy(), first.displacement, atol=2e-3)
    again = register_volumes(moving, fixed, initial=tmp_path / "a.nii.gz", budget="fast")
    one, other = (whole(result.displacement, affine) for result in (first, again))
    apart = np.linalg.norm(one - other, axis=0)
    assert apart[fixed.data > 50].mean() < 1.5
    assert again.similarity["after"]["lncc"] > first.similarity["after"]["lncc"] - 0.02
    assert again.similarity["affine"]["lncc"] > again.similarity["before"]["lncc"]


def test_slices_begin_from_their_own_files(tmp_path: Path) -> None:
    """Oblique planes that are not parallel: the matrix and the field come back as they went."""
    shape = (40, 1, 44)
    fixed_affine = centred(oblique((3.5, 4.0, 3.0), "RAS"), shape)
    tilt = turned(12, (3, 2, -1))
    moving = volume(head(grid(shape, fixed_affine)), tilt @ fixed_affine, "moving.nii.gz")
    fixed = volume(head(bent(grid(shape, fixed_affine))), fixed_affine, "fixed.nii.gz")
    result = register_volumes(moving, fixed, budget="fast")
    space = result.space
    physical = result.pair.affine.physical
    np.savetxt(tmp_path / "affine.txt", result.affine)
    write_displacement(tmp_path / "field.nii.gz", result.displacement, fixed_affine)
    matrix = start_from(tmp_path / "affine.txt", result.moving, result.fixed, space).matrix
    field = start_from(tmp_path / "field.nii.gz", result.moving, result.fixed, space).displacement
    assert matrix is not None
    assert field is not None
    assert torch.allclose(matrix, physical, atol=1e-8)
    assert torch.allclose(field, result.pair.displacement, atol=2e-3)


def test_a_field_of_a_plane(tmp_path: Path) -> None:
    """As ITK writes one of two components; the slices lie in files of two axes."""
    rows, columns = np.indices((30, 34), dtype=np.float64)
    shift = np.stack([3 * np.sin(columns / 9) + 2, 2 * np.cos(rows / 8) - 4], -1)
    field = sitk.GetImageFromArray(shift.transpose(1, 0, 2).copy(), isVector=True)
    field.SetSpacing((2.0, 2.5))
    field.SetOrigin((-30.0, -40.0))
    sitk.WriteImage(field, str(tmp_path / "field.nii.gz"))
    affine = np.diag([-2.2, -2.0, 1, 1])
    affine[:3, 3] = 28, 35, 0
    slices = [volume(head(grid((26, 30, 1), affine)), affine, f"{name}.nii") for name in ("a", "b")]
    start = start_from(tmp_path / "field.nii.gz", *slices, PairSpace.of(*slices))
    assert start.displacement is not None
    transform = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
    for index in ((4, 5), (12, 20), (20, 9)):
        place = (affine @ [*index, 0, 1])[:2]
        u = start.displacement[0].numpy()[(slice(None), *index)]
        found = (affine @ [*(np.array(index) + u), 0, 1])[:2]
        assert np.allclose(-found, transform.TransformPoint((-place).tolist()), atol=2e-3)


def test_pictures_begin_from_itk_of_pixels(tmp_path: Path) -> None:
    shape = (60, 52, 1)
    places = grid(shape, centred(np.diag([3.0, 3, 3, 1]), shape))
    turn = sitk.Euler2DTransform((25.0, 30.0), 0.5, (4.0, -3.0))  # column, row
    rows, columns = np.indices(shape[:2], dtype=np.float64)
    there = np.array([turn.TransformPoint(p) for p in np.stack([columns, rows], -1).reshape(-1, 2)])
    at = np.stack([3 * (there[:, 1] - 29.5), 3 * (there[:, 0] - 25.5), 0 * there[:, 0]])
    Image.fromarray(head(places)[..., 0].astype(np.uint8)).save(tmp_path / "moving.png")
    Image.fromarray(head(at).reshape(shape[:2]).astype(np.uint8)).save(tmp_path / "fixed.png")
    sitk.WriteTransform(turn, str(tmp_path / "a.tfm"))
    pictures = [
        read_volume(tmp_path / f"{name}.png").placed(PICTURE_ORIENTATION)
        for name in ("moving", "fixed")
    ]
    space = PairSpace.of(*pictures)
    matrix = start_from(tmp_path / "a.tfm", *pictures, space).matrix
    assert matrix is not None
    voxels = torch.linalg.inv(space.moving_affine) @ matrix @ space.fixed_affine
    row, column, _ = (voxels @ torch.tensor([10.0, 20.0, 1.0], dtype=torch.float64)).tolist()
    assert np.allclose((column, row), turn.TransformPoint((20.0, 10.0)))
    result = register_volumes(*pictures, initial=tmp_path / "a.tfm", transform="rigid")
    moved = LPS @ result.affine @ LPS
    found = sitk.AffineTransform(2)
    found.SetMatrix(moved[:2, :2].ravel().tolist())
    found.SetTranslation(moved[:2, 3].tolist())
    for place in ((25.0, 30.0), (15.0, 40.0), (35.0, 20.0)):
        assert np.allclose(found.TransformPoint(place), turn.TransformPoint(place), atol=0.5)


def test_the_nearest_affine_map_of_one_is_itself() -> None:
    for ndim, size in ((2, (9, 12)), (3, (7, 8, 5))):
        torch.manual_seed(ndim)
        affine = torch.eye(ndim, ndim + 1).double() + 0.2 * torch.randn(ndim, ndim + 1).double()
        u = affine_displacement(affine[None], torch.Size(size))
        assert torch.allclose(nearest_affine(u), affine, atol=1e-10)
        noise = torch.randn(1, ndim, *size).double()
        places = torch.stack(
            torch.meshgrid(*(torch.arange(n).double() for n in size), indexing="ij")
        ).flatten(1)
        ones = torch.cat([places, torch.ones_like(places[:1])]).T
        expected = torch.linalg.lstsq(ones, (places + noise[0].flatten(1)).T).solution.T
        assert torch.allclose(nearest_affine(noise), expected, atol=1e-8)


def test_rotations_find_a_head_turned_over(pair: tuple[Volume, Volume]) -> None:
    moving, _ = pair
    turn = turned(140, (5, 3, -4))
    fixed = volume(head(moved(grid(FIXED_SHAPE, FIXED), turn)), FIXED)
    result = register_volumes(moving, fixed, transform="rigid", rotations=30)
    places = grid(FIXED_SHAPE, FIXED)[:, fixed.data > 50]
    error = np.linalg.norm(moved(places, result.affine) - moved(places, turn), axis=0)
    assert error.mean() < 2
    assert result.arguments["rotations"] == 30


def test_what_cannot_be_begun_from(tmp_path: Path, pair: tuple[Volume, Volume]) -> None:
    write_displacement(tmp_path / "a.nii.gz", np.zeros((3, *FIXED_SHAPE), np.float32), FIXED)
    sitk.WriteTransform(sitk.Euler2DTransform(), str(tmp_path / "plane.tfm"))
    field = tmp_path / "a.nii.gz"
    away = FIXED.copy()
    away[0, 3] += 1000
    write_displacement(tmp_path / "b.nii.gz", np.zeros((3, *FIXED_SHAPE), np.float32), away)
    with pytest.raises(ValueError, match=r"b\.nii\.gz: expected .* of where the fixed image lies"):
        register_volumes(*pair, initial=tmp_path / "b.nii.gz")
    with pytest.raises(ValueError, match=r"plane\.tfm: expected a transform of three axes"):
        register_volumes(*pair, initial=tmp_path / "plane.tfm")
    with pytest.raises(ValueError, match="is where the deformable stage begins"):
        register_volumes(*pair, initial=field, transform="affine")
    with pytest.raises(ValueError, match="no rotations to begin from"):
        register_volumes(*pair, initial=field, rotations=3)
    with pytest.raises(FileNotFoundError, match=r"none\.tfm: no such file"):
        register_volumes(*pair, initial=tmp_path / "none.tfm")
    write_image(tmp_path / "image.nii.gz", np.zeros((4, 4, 4), np.float32), np.eye(4))
    with pytest.raises(ValueError, match=r"image\.nii\.gz: is no transform of a format"):
        register_volumes(*pair, initial=tmp_path / "image.nii.gz")


def test_tensors_that_cannot_be_begun_from() -> None:
    image = torch.rand(1, 1, 20, 22)
    with pytest.raises(ValueError, match=r"initial_displacement must be \(1, 2, 20, 22\)"):
        register(image, image, initial_displacement=torch.zeros(1, 2, 22, 20))
    mirror = torch.zeros(1, 2, 20, 22)
    mirror[:, 0] = -2 * torch.arange(20)[:, None]
    with pytest.raises(ValueError, match="must not mirror or flatten the image"):
        register(image, image, initial_displacement=mirror)
