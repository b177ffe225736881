"""Formats of transforms beside what their makers say of them, worked out by hand."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from drawn_head import centred, turned
from image_files import oblique
from scipy.ndimage import map_coordinates, zoom

from plasticine.transforms import (
    AffineTransform,
    BSplineTransform,
    Chain,
    DisplacementField,
    Ends,
    Grid,
    read_transform,
    write_transform,
)

SHAPE, MOVING_SHAPE = (14, 12, 10), (13, 15, 11)
MAP = turned(9, (3, -4, 5)) @ np.diag([1.1, 0.9, 1.05, 1])
# Within all images.
PLACES = np.random.default_rng(0).uniform(-11, 11, (20, 3))


def fixed_of(orientation: str = "RAS") -> Grid:
    return Grid(SHAPE, centred(oblique((3.0, 4.0, 5.5), orientation), SHAPE))


def moving_of(orientation: str = "RAS") -> Grid:
    return Grid(MOVING_SHAPE, centred(oblique((4.0, 3.5, 4.5), orientation), MOVING_SHAPE))


def smooth(shape: tuple[int, ...], largest: float = 1.5) -> np.ndarray:
    random = np.random.default_rng(1).normal(size=(3, 4, 4, 4))
    field = np.stack([zoom(one, np.divide(shape, 4), order=1) for one in random])
    return np.float32(field * largest / np.abs(field).max())


def in_millimetres(grid: Grid, voxels: np.ndarray) -> np.ndarray:
    return voxels @ grid.affine[:3, :3].T + grid.affine[:3, 3]


def in_fsl(grid: Grid, places: np.ndarray) -> np.ndarray:
    """Voxels times their size, the first axis from its other end where det(affine) > 0."""
    voxels = (places - grid.affine[:3, 3]) @ np.linalg.inv(grid.affine[:3, :3]).T
    if np.linalg.det(grid.affine[:3, :3]) > 0:
        voxels[:, 0] = grid.shape[0] - 1 - voxels[:, 0]
    return voxels * grid.spacing


@pytest.mark.parametrize("orientations", list(itertools.product(("RAS", "LAS", "SLA"), repeat=2)))
def test_flirt_takes_the_moving_image_to_the_fixed(
    tmp_path: Path, orientations: tuple[str, str]
) -> None:
    fixed, moving = fixed_of(orientations[0]), moving_of(orientations[1])
    matrix = turned(7, (2, 3, -4)) @ np.diag([0.95, 1.1, 1.0, 1])
    np.savetxt(tmp_path / "a.mat", matrix)
    found = read_transform(f"fsl:{tmp_path / 'a.mat'}", Ends(fixed, moving))
    there = found.points(PLACES)
    back = in_fsl(moving, there) @ matrix[:3, :3].T + matrix[:3, 3]
    assert np.allclose(back, in_fsl(fixed, PLACES), atol=1e-8)
    write_transform(f"fsl:{tmp_path / 'b.mat'}", found, Ends(fixed, moving))
    assert np.allclose(np.loadtxt(tmp_path / "b.mat"), matrix, atol=1e-9)
    assert "for pulling moving onto fixed" in (tmp_path / "b.mat.json").read_text()


@pytest.mark.parametrize("orientations", list(itertools.product(("RAS", "LAS", "SLA"), repeat=2)))
@pytest.mark.parametrize("kind", ["relative", "absolute"])
def test_fnirt_says_where_in_the_moving_image(
    tmp_path: Path, orientations: tuple[str, str], kind: str
) -> None:
    fixed, moving = fixed_of(orientations[0]), moving_of(orientations[1])
    voxels = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1).reshape(-1, 3)
    own = in_fsl(fixed, in_millimetres(fixed, voxels))
    moved = 3 * smooth(SHAPE).reshape(3, -1).T
    stored = (moved if kind == "relative" else own + moved).reshape(*SHAPE, 3)
    image = nibabel.Nifti1Image(np.float32(stored), fixed.affine)
    image.header["intent_code"] = 2006
    nibabel.save(image, tmp_path / "w.nii.gz")
    ends = Ends(fixed, moving)
    found = read_transform(f"fsl-{kind}:{tmp_path / 'w.nii.gz'}", ends)
    there = found.points(in_millimetres(fixed, voxels))
    assert np.abs(in_fsl(moving, there) - (own + moved)).max() < 1e-3
    # By itself it is told where the displacements are small beside the places.
    guessed = read_transform(tmp_path / "w.nii.gz", ends)
    assert np.abs(guessed.points(PLACES) - found.points(PLACES)).max() < 1e-3
    write_transform(f"fsl:{tmp_path / 'v.nii.gz'}", found, ends)
    again = np.asarray(nibabel.load(tmp_path / "v.nii.gz").dataobj).reshape(-1, 3)
    assert np.abs(again - moved).max() < 1e-3


def test_fsl_of_axes_that_run_otherwise_must_be_told(tmp_path: Path) -> None:
    """Displacements that turn axes vary as much as places do."""
    fixed, moving = fixed_of("RAS"), moving_of("SLA")
    field = DisplacementField(torch.from_numpy(smooth(SHAPE)), fixed)
    ends = Ends(fixed, moving)
    write_transform(f"fsl:{tmp_path / 'w.nii.gz'}", field, ends)
    with pytest.raises(ValueError, match=r"w\.nii\.gz: cannot tell whether .* fsl-relative:FILE"):
        read_transform(tmp_path / "w.nii.gz", ends)
    found = read_transform(f"fsl-relative:{tmp_path / 'w.nii.gz'}", ends)
    assert np.abs(found.points(PLACES) - field.points(PLACES)).max() < 1e-3


LTA = """# transform file a.lta
type      = {kind} # LINEAR_VOX_TO_VOX
nxforms   = 1
mean      = 0.0000 0.0000 0.0000
sigma     = 1.0000
1 4 4
{matrix}
src volume info
valid = 1  # volume info valid
filename = moving.mgz
volume = 256 256 128
voxelsize = 1.0 1.0 2.0
xras   = -1.0 0.0 0.0
yras   = 0.0 0.0 -1.0
zras   = 0.0 1.0 0.0
cras   = 2.0 -3.0 4.0
dst volume info
valid = 1  # volume info valid
filename = fixed.mgz
volume = 100 120 80
voxelsize = 2.0 1.5 1.0
xras   = 1.0 0.0 0.0
yras   = 0.0 1.0 0.0
zras   = 0.0 0.0 1.0
cras   = -5.0 6.0 7.0
"""


@pytest.mark.parametrize("kind", [0, 1])
def test_lta_takes_the_source_to_the_destination(tmp_path: Path, kind: int) -> None:
    matrix = np.array([[0.5, 0, 0.1, 3], [0, -0.02, 2, 4], [0, -1, 0.1, 200], [0, 0, 0, 1]])
    rows = "\n".join(" ".join(f"{n:.15e}" for n in row) for row in matrix)
    (tmp_path / "a.lta").write_text(LTA.format(kind=kind, matrix=rows))
    found = read_transform(tmp_path / "a.lta")
    # Voxels to RAS: the middle, half of the volume, lies at cras.
    source = np.array([[-1, 0, 0, 130], [0, 0, 2, -131], [0, -1, 0, 132], [0, 0, 0, 1.0]])
    target = np.array([[2, 0, 0, -105], [0, 1.5, 0, -84], [0, 0, 1, -33], [0, 0, 0, 1.0]])
    onto = matrix if kind == 1 else target @ matrix @ np.linalg.inv(source)
    moving = PLACES @ onto[:3, :3].T + onto[:3, 3]
    assert np.allclose(found.points(moving), PLACES, atol=1e-8)


def test_lta_describes_its_images(tmp_path: Path) -> None:
    ends = Ends(fixed_of("SLA"), moving_of("LAS"), "f.nii.gz", "m.nii.gz")
    write_transform(tmp_path / "a.lta", AffineTransform(MAP), ends)
    text = (tmp_path / "a.lta").read_text()
    assert "filename = m.nii.gz" in text.split("dst volume info")[0]
    # As voxels it means the same: the description is right.
    voxels = np.linalg.inv(fixed_of("SLA").affine) @ np.linalg.inv(MAP) @ moving_of("LAS").affine
    lines = text.splitlines()
    begin = lines.index("1 4 4") + 1
    lines[begin : begin + 4] = [" ".join(map(repr, row)) for row in voxels.tolist()]
    changed = "\n".join(lines).replace("type      = 1", "type      = 0")
    (tmp_path / "b.lta").write_text(changed)
    found = read_transform(tmp_path / "b.lta")
    assert np.allclose(found.points(PLACES), AffineTransform(MAP).points(PLACES), atol=1e-6)


def niftyreg(path: Path, array: np.ndarray, affine: np.ndarray, kind: int) -> Path:
    image = nibabel.Nifti1Image(np.float32(array), affine)
    image.header["intent_code"], image.header["intent_p1"] = 1007, kind
    image.header["intent_name"] = b"NREG_TRANS"
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("kind", [0, 1])
def test_niftyreg_has_places_or_displacements(tmp_path: Path, kind: int) -> None:
    grid = fixed_of("SLA")
    voxels = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1).reshape(-1, 3)
    places, moved = in_millimetres(grid, voxels), 3 * smooth(SHAPE).reshape(3, -1).T
    stored = (places * (kind == 0) + moved).reshape(*SHAPE, 1, 3)
    found = read_transform(niftyreg(tmp_path / "d.nii.gz", stored, grid.affine, kind))
    assert np.abs(found.points(places) - (places + moved)).max() < 1e-3
    write_transform(f"niftyreg:{tmp_path / 'e.nii.gz'}", found)
    again = np.asarray(nibabel.load(tmp_path / "e.nii.gz").dataobj).reshape(-1, 3)
    assert np.abs(again - (places + moved)).max() < 1e-3


def test_niftyreg_has_control_points_where_they_go(tmp_path: Path) -> None:
    grid = fixed_of("LAS")
    voxels = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    moved = np.moveaxis(3 * smooth(SHAPE), 0, -1)
    stored = (in_millimetres(grid, voxels) + moved)[:, :, :, None]
    found = read_transform(niftyreg(tmp_path / "c.nii.gz", stored, grid.affine, 2))
    assert isinstance(found, BSplineTransform)
    inner = np.random.default_rng(3).uniform(2, np.array(SHAPE) - 3.0, (20, 3))
    expected = np.stack(
        [map_coordinates(moved[..., axis], inner.T, order=3, prefilter=False) for axis in range(3)],
        -1,
    )
    places = in_millimetres(grid, inner)
    assert np.abs(found.points(places) - places - expected).max() < 1e-3


@pytest.mark.parametrize("name", ["voxelmorph", "learn2reg"])
def test_fields_in_voxels(tmp_path: Path, name: str) -> None:
    grid, field = fixed_of("SLA"), smooth(SHAPE)
    nibabel.save(nibabel.Nifti1Image(np.moveaxis(field, 0, -1), grid.affine), tmp_path / "a.nii.gz")
    with pytest.raises(ValueError, match=r"could be of several formats.*voxelmorph"):
        read_transform(tmp_path / "a.nii.gz")
    found = read_transform(f"{name}:{tmp_path / 'a.nii.gz'}")
    voxels = np.array([[3, 4, 5], [10, 2, 7]])
    moved = voxels + np.stack([field[:, i, j, k] for i, j, k in voxels])
    assert np.allclose(
        found.points(in_millimetres(grid, voxels)), in_millimetres(grid, moved), atol=1e-3
    )


def test_learn2reg_at_half_resolution(tmp_path: Path) -> None:
    """As its evaluation has it: enlarged from end to end, the numbers left as they are."""
    half = np.float16(smooth((7, 6, 5)))
    np.savez(tmp_path / "disp.npz", half)
    grid = fixed_of()
    with pytest.raises(ValueError, match="means nothing without the fixed image"):
        read_transform(tmp_path / "disp.npz")
    found = read_transform(tmp_path / "disp.npz", Ends(grid)).sampled(grid)
    whole = np.stack([zoom(np.float32(one), 2, order=1) for one in half])
    assert np.abs(found.displacement.numpy() - whole).max() < 1e-3


def test_float16_is_refused_where_it_rounds(tmp_path: Path) -> None:
    grid = fixed_of()
    field = DisplacementField(torch.full((3, *SHAPE), 70.03), grid)
    with pytest.raises(ValueError, match=r"float16 would round a displacement of 70\.03 voxels"):
        write_transform(f"learn2reg:{tmp_path / 'a.npz'}", field)
    assert not any(tmp_path.iterdir())
    write_transform(f"voxelmorph:{tmp_path / 'a.npz'}", field)
    assert np.load(tmp_path / "a.npz")["vol"].shape == (*SHAPE, 3)


def test_a_map_of_pixels(tmp_path: Path) -> None:
    rows, columns = np.meshgrid(np.arange(5.0), np.arange(7.0), indexing="ij")
    tables = {"D_V_x": (columns + 0.5).tolist(), "D_V_y": (rows - 1.25).tolist()}
    (tmp_path / "a.json").write_text(json.dumps(tables))
    found = read_transform(tmp_path / "a.json")
    # ITK's column and row of a picture are LPS+.
    assert np.allclose(found.points(np.array([[-3.0, -2, 0]])), [[-3.5, -0.75, 0]], atol=1e-5)
    write_transform(tmp_path / "b.json", found)
    assert np.allclose(json.loads((tmp_path / "b.json").read_text())["D_V_x"], tables["D_V_x"])


BAD = {
    "several": ("a.lta", LTA.format(kind=1, matrix="").replace("nxforms   = 1", "nxforms = 2")),
    "type": ("a.lta", LTA.format(kind=14, matrix="")),
    "rows": ("a.lta", LTA.format(kind=1, matrix="1 0 0 0")),
    "images": (
        "a.lta",
        LTA.format(kind=0, matrix="1 0 0 0\n" * 4).replace("valid = 1", "valid = 0"),
    ),
    "singular": ("a.lta", LTA.format(kind=1, matrix="1 0 0 0\n1 0 0 0\n0 0 1 0\n0 0 0 1")),
    "elastix": ("a.txt", '(Transform "WeirdTransform")\n(FixedImageDimension 3)\n'),
    "elastix numbers": (
        "a.txt",
        '(Transform "AffineTransform")\n(FixedImageDimension 3)\n(CenterOfRotationPoint 0 0 0)\n'
        "(TransformParameters 1 2 3)\n",
    ),
    "elastix initial": (
        "a.txt",
        '(Transform "TranslationTransform")\n(FixedImageDimension 3)\n(TransformParameters 1 2 3)\n'
        '(InitialTransformParametersFileName "none.txt")\n',
    ),
    "pixels": ("a.json", '{"D_V_x": [[1, 2]], "D_V_y": [[1]]}'),
    "no pixels": ("a.json", '{"D_V_x": [[1, 2]], "D_V_z": [[1, 2]]}'),
}
MESSAGES = {
    "several": "expected one transform, got 2",
    "type": "got type 14 .register.dat.: convert it by lta_convert",
    "rows": "expected four rows of four numbers",
    "images": "no valid src and dst volume info",
    "singular": "cannot be inverted",
    "elastix": "expected one of TranslationTransform, .*; got WeirdTransform",
    "elastix numbers": "expected 12 parameters",
    "elastix initial": "none.txt: no such file",
    "pixels": "expected two tables of one shape",
    "no pixels": "expected the keys D_V_x, D_V_y",
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_damaged_is_refused(tmp_path: Path, case: str) -> None:
    name, content = BAD[case]
    (tmp_path / name).write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=MESSAGES[case]) as caught:
        read_transform(tmp_path / name, Ends(fixed_of(), moving_of()))
    assert str(tmp_path) in str(caught.value)


def test_niftyreg_and_fsl_of_other_kinds_are_refused(tmp_path: Path) -> None:
    grid = fixed_of()
    velocity = niftyreg(tmp_path / "v.nii.gz", np.zeros((*SHAPE, 1, 3)), grid.affine, 5)
    with pytest.raises(ValueError, match="holds control points of a velocity: write the"):
        read_transform(velocity)
    image = nibabel.Nifti1Image(np.zeros((*SHAPE, 3), np.float32), grid.affine)
    image.header["intent_code"] = 2007
    nibabel.save(image, tmp_path / "coefficients.nii.gz")
    with pytest.raises(ValueError, match="holds coefficients of cubic splines"):
        read_transform(tmp_path / "coefficients.nii.gz")
    image.header["intent_code"] = 2006
    nibabel.save(image, tmp_path / "field.nii.gz")
    with pytest.raises(ValueError, match="means nothing without the moving image"):
        read_transform(tmp_path / "field.nii.gz")


def test_spms_fields_of_places_are_no_displacements(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((*SHAPE, 1, 3), np.float32), fixed_of().affine)
    image.header["intent_code"], image.header["intent_name"] = 1007, b"Mapping"
    nibabel.save(image, tmp_path / "y_head.nii")
    with pytest.raises(ValueError, match=r"y_head\.nii: is no transform of a format"):
        read_transform(tmp_path / "y_head.nii")


def test_initial_transforms_of_elastix_go_first(tmp_path: Path) -> None:
    common = "(FixedImageDimension 3)\n"
    (tmp_path / "0.txt").write_text(
        f'(Transform "TranslationTransform")\n{common}(TransformParameters 10 0 0)\n'
    )
    (tmp_path / "1.txt").write_text(
        f'(Transform "EulerTransform")\n{common}(CenterOfRotationPoint 0 0 0)\n'
        '(ComputeZYX "false")\n(TransformParameters 0 0 1.5707963267948966 0 0 0)\n'
        '(InitialTransformParametersFileName "/elsewhere/0.txt")\n'
    )
    # LPS+: (0, 0, 0) goes to (10, 0, 0), then by a quarter of a turn to (0, 10, 0).
    found = read_transform(tmp_path / "1.txt")
    assert np.allclose(found.points(np.zeros((1, 3))), [[0, -10, 0]], atol=1e-9)


def test_a_chain_needs_one_interpolation(tmp_path: Path) -> None:
    """A FLIRT matrix at the end of a chain knows its moving image, in the middle none."""
    from plasticine.transforms import read_chain

    fixed, moving = fixed_of(), moving_of()
    np.savetxt(tmp_path / "a.mat", np.eye(4))
    write_transform(tmp_path / "b.tfm", AffineTransform(MAP))
    flirt, other = f"fsl:{tmp_path / 'a.mat'}", tmp_path / "b.tfm"
    assert len(read_chain([(other, False)] * 2, Ends(fixed, moving))) == 2
    with pytest.raises(ValueError, match="means nothing without the fixed image"):
        read_chain([(other, False), (flirt, False)], Ends(fixed, moving))
    (alone,) = read_chain([(flirt, True)], Ends(moving, fixed))
    (ahead,) = read_chain([(flirt, False)], Ends(fixed, moving))
    both = Chain((ahead, alone))
    assert np.allclose(both.points(PLACES), PLACES, atol=1e-9)
