"""Points and surfaces that a registration carries, and what other programs make of its files."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (its users' name for it)
from command_line import Run
from drawn_head import bent, centred, grid, head, labels, moved, turned, volume
from image_files import TO_RAS, oblique
from PIL import Image

from plasticine.io import (
    VolumeRegistration,
    read_points,
    register_volumes,
    write_displacement,
    write_image,
)
from plasticine.io.points import carry_points
from plasticine.io.surface import Surface

FIXED_SHAPE = (28, 30, 24)
FIXED = centred(oblique((-6.0, 5.5, 6.5), "SAR"), FIXED_SHAPE)
MOVING_SHAPE = (32, 28, 30)
MOVING = centred(oblique((5.5, 6.0, 5.0), "PLI"), MOVING_SHAPE)
TURN = turned(12, (12, -7, 9))
# In RAS+: within the head, and one far outside of the image.
PLACES = np.array([(5.0, 10, 6), (-30, 22, 10), (25, -40, -12), (0, 55, 5), (400, 10, -300)])


def table(path: Path, places: np.ndarray) -> Path:
    """As ANTs takes it, columns of other things among its own."""
    lps = places @ TO_RAS[:3, :3]
    rows = [f"{x},{y},{z},0,{number},p {number}" for number, (x, y, z) in enumerate(lps)]
    path.write_text("\n".join(["x,y,z,t,label,comment", *rows]) + "\n")
    return path


def places_of(path: Path) -> np.ndarray:
    """Those of a table, in RAS+."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return np.array([[float(row[n]) for n in "xyz"] for row in rows]) @ TO_RAS[:3, :3]


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> tuple[VolumeRegistration, Path]:
    folder = tmp_path_factory.mktemp("points")
    fixed = moved(bent(grid(FIXED_SHAPE, FIXED)), TURN)
    result = register_volumes(
        volume(head(grid(MOVING_SHAPE, MOVING)), MOVING, "moving.nii.gz"),
        volume(head(fixed), FIXED, "fixed.nii.gz"),
        fixed_points=table(folder / "fixed.csv", PLACES),
        moving_points=table(folder / "moving.csv", PLACES),
    )
    write_displacement(folder / "displacement.nii.gz", result.displacement, FIXED)
    write_displacement(folder / "inverse_displacement.nii.gz", result.inverse_displacement, MOVING)
    return result, folder


def test_they_go_where_the_true_map_sends_them(
    registered: tuple[VolumeRegistration, Path],
) -> None:
    result, _ = registered
    assert result.fixed_points is not None
    assert result.moving_points is not None
    found = result.fixed_points.places @ TO_RAS[:3, :3]
    true = moved(bent(PLACES[:4].T), TURN).T
    assert np.linalg.norm(found[:4] - true, axis=1).max() < 3.5
    back = result.moving_points.places @ TO_RAS[:3, :3]
    assert np.linalg.norm(moved(bent(back[:4].T), TURN).T - PLACES[:4], axis=1).max() < 3.5
    assert result.fixed_points.outside.tolist() == [False] * 4 + [True]
    assert result.moving_points.outside.tolist() == [False] * 4 + [True]


@pytest.mark.parametrize("which", ["fixed", "moving"])
def test_itk_sends_them_there(registered: tuple[VolumeRegistration, Path], which: str) -> None:
    result, folder = registered
    name = "displacement" if which == "fixed" else "inverse_displacement"
    image = sitk.ReadImage(str(folder / f"{name}.nii.gz"), sitk.sitkVectorFloat64)
    transform = sitk.DisplacementFieldTransform(image)
    carried = result.fixed_points if which == "fixed" else result.moving_points
    assert carried is not None
    for place, found in zip(PLACES[:4] @ TO_RAS[:3, :3], carried.places[:4], strict=True):
        assert np.allclose(transform.TransformPoint(place.tolist()), found, atol=2e-3)


@pytest.mark.parametrize("which", ["fixed", "moving"])
def test_ants_sends_them_there(registered: tuple[VolumeRegistration, Path], which: str) -> None:
    ants, pandas = pytest.importorskip("ants"), pytest.importorskip("pandas")
    result, folder = registered
    name = "displacement" if which == "fixed" else "inverse_displacement"
    given = pandas.read_csv(folder / f"{which}.csv")
    found = ants.apply_transforms_to_points(3, given, [str(folder / f"{name}.nii.gz")])
    carried = result.fixed_points if which == "fixed" else result.moving_points
    assert carried is not None
    assert np.allclose(found[["x", "y", "z"]].to_numpy()[:4], carried.places[:4], atol=5e-3)


def test_outside_the_border_is_repeated(registered: tuple[VolumeRegistration, Path]) -> None:
    """The affine part of the place, and what the border is displaced by beyond it."""
    result, _ = registered
    assert result.fixed_points is not None
    voxel = np.linalg.inv(FIXED) @ [*PLACES[4], 1]
    border = np.clip(np.rint(voxel[:3]), 0, np.array(FIXED_SHAPE) - 1).astype(int)
    exact = np.clip(voxel[:3], 0, np.array(FIXED_SHAPE) - 1)
    u = result.pair.mapping.displacement[0].numpy()[(slice(None), *border)]
    expected = result.affine @ FIXED @ [*(voxel[:3] + u), 1]
    found = result.fixed_points.places[4] @ TO_RAS[:3, :3]
    assert np.abs(exact - border).max() < 0.51
    assert np.allclose(found, expected[:3], atol=2.0)


def test_the_table_keeps_what_else_it_holds(
    registered: tuple[VolumeRegistration, Path], tmp_path: Path
) -> None:
    result, _ = registered
    assert result.fixed_points is not None
    result.fixed_points.write(tmp_path / "a.csv")
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[0] == "x,y,z,t,label,comment,outside"
    assert [line.split(",")[3:] for line in lines[1:]] == [
        ["0", str(n), f"p {n}", "1" if n == 4 else "0"] for n in range(5)
    ]
    again = read_points(tmp_path / "a.csv")
    assert np.allclose(again.places, result.fixed_points.places, atol=1e-6)
    again.write(tmp_path / "b.csv", again.places, np.zeros(5, bool))
    assert (tmp_path / "b.csv").read_text().splitlines()[0] == lines[0]


@pytest.mark.parametrize("space", ["", "SPACE=LPS", "SPACE=RAS"])
@pytest.mark.parametrize("suffix", ["vtk", "vtp"])
def test_surfaces(
    registered: tuple[VolumeRegistration, Path], tmp_path: Path, suffix: str, space: str
) -> None:
    pytest.importorskip("vtkmodules")
    from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy
    from vtkmodules.vtkCommonCore import vtkFloatArray, vtkPoints, vtkStringArray
    from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkPolyData
    from vtkmodules.vtkIOLegacy import vtkPolyDataWriter
    from vtkmodules.vtkIOXML import vtkXMLPolyDataWriter

    result, _ = registered
    own = PLACES if space == "SPACE=RAS" else PLACES @ TO_RAS[:3, :3]
    data, points, cells = vtkPolyData(), vtkPoints(), vtkCellArray()
    points.SetData(numpy_to_vtk(own.copy(), deep=True))
    data.SetPoints(points)
    for triangle in ((0, 1, 2), (1, 2, 3)):
        cells.InsertNextCell(3, triangle)
    data.SetPolys(cells)
    thickness = vtkFloatArray()
    thickness.SetName("thickness")
    for number in range(len(PLACES)):
        thickness.InsertNextValue(number)
    data.GetPointData().AddArray(thickness)
    file = tmp_path / f"a.{suffix}"
    writer = vtkPolyDataWriter() if suffix == "vtk" else vtkXMLPolyDataWriter()
    if suffix == "vtk":
        writer.SetHeader(f"3D Slicer output. {space}")
    elif space:
        said = vtkStringArray()
        said.SetName("SPACE")
        said.InsertNextValue(space[-3:])
        data.GetFieldData().AddArray(said)
    writer.SetInputData(data)
    writer.SetFileName(str(file))
    assert writer.Write()

    surface = read_points(file)
    assert np.allclose(surface.places @ TO_RAS[:3, :3], PLACES)
    carried = result.fixed_points
    assert carried is not None
    surface.write(tmp_path / f"b.{suffix}", carried.places, carried.outside)
    written = read_points(tmp_path / f"b.{suffix}")
    assert isinstance(written, Surface)
    assert np.allclose(written.places, carried.places, atol=1e-9)
    assert written.is_ras == (space == "SPACE=RAS")
    assert written.data.GetNumberOfPolys() == 2
    of_points = written.data.GetPointData()
    assert vtk_to_numpy(of_points.GetArray("thickness")).tolist() == [0, 1, 2, 3, 4]
    assert vtk_to_numpy(of_points.GetArray("outside")).tolist() == [0, 0, 0, 0, 1]


def test_points_of_slices(tmp_path: Path) -> None:
    """Oblique planes: points of space stay in them; off them they are outside."""
    shape = (40, 1, 44)
    affine = centred(oblique((3.5, 4.0, 3.0), "RAS"), shape)
    tilt = turned(12, (3, 2, -1))
    moving = volume(head(grid(shape, affine)), tilt @ affine, "moving.nii.gz")
    fixed = volume(head(bent(grid(shape, affine))), affine, "fixed.nii.gz")
    within = grid(shape, affine)[:, [12, 20, 25], 0, [20, 30, 15]].T
    away = within[:1] + 5 * affine[:3, 1] / np.linalg.norm(affine[:3, 1])
    table(tmp_path / "a.csv", np.concatenate([within, away]))
    result = register_volumes(moving, fixed, fixed_points=tmp_path / "a.csv", budget="fast")
    carried = result.fixed_points
    assert carried is not None
    there = moved(np.indices(shape) + result.displacement, affine)
    expected = there[:, [12, 20, 25], 0, [20, 30, 15]].T
    assert np.allclose(carried.places[:3] @ TO_RAS[:3, :3], expected, atol=2e-3)
    assert carried.outside.tolist() == [False] * 3 + [True]
    in_moving = np.linalg.inv(tilt @ affine) @ [*(carried.places[0] @ TO_RAS[:3, :3]), 1]
    assert abs(in_moving[1]) < 1e-3


def test_x_and_y_of_an_axial_slice(tmp_path: Path) -> None:
    """The third coordinate is that of the slice, also where it is tilted a little."""
    shape = (20, 24, 1)
    affine = centred(np.diag([-2.0, 3.0, 4.0, 1]), shape)
    affine[:3, 3] += (0, 0, 37)
    affine = turned(6, (0, 0, 0)) @ affine
    image = volume(head(grid(shape, affine)), affine)
    within = (affine @ [7.25, 11.5, 0, 1])[:3]
    x, y, _ = within @ TO_RAS[:3, :3]
    (tmp_path / "a.csv").write_text(f"x,y\n{x},{y}\n")
    shift = np.eye(4)
    shift[:3, 3] = 5, -6, 7
    field = np.zeros((3, *shape), np.float32)
    field[0] = 0.5
    carried = carry_points(read_points(tmp_path / "a.csv"), image, field, shift)
    expected = shift @ affine @ [7.75, 11.5, 0, 1]
    assert np.allclose(carried.places[0], (expected[:3] @ TO_RAS[:3, :3])[:2], atol=1e-6)
    assert not carried.outside.any()


def test_points_of_pictures_are_column_and_row(run: Run, tmp_path: Path) -> None:
    shape = (70, 60, 1)
    fixed = grid(shape, centred(np.diag([2.5, 2.5, 1, 1]), shape))
    shift = np.eye(4)
    shift[:2, 3] = 10.0, 20.0  # 4 rows, 8 columns
    for name, image in (("fixed", head(moved(fixed, shift))), ("moving", head(fixed))):
        Image.fromarray(image[..., 0].astype(np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "points.csv").write_text("name,y,x\na,35,30\nb,40,25\n")
    out = tmp_path / "out"
    code, printed, err = run(
        "register", tmp_path / "moving.png", tmp_path / "fixed.png", "--output", out,
        "--fixed-points", tmp_path / "points.csv", "--transform", "rigid",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "2 carried" in printed
    with (out / "fixed_points_in_moving.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["a", "b"]
    for row, (x, y) in zip(rows, ((38, 39), (33, 44)), strict=True):
        assert np.allclose((float(row["x"]), float(row["y"])), (x, y), atol=0.3)
    # ITK, which reads the pictures themselves, has the same points.
    transform = sitk.ReadTransform(str(out / "affine.tfm"))
    assert np.allclose(
        transform.TransformPoint((30.0, 35.0)), (float(rows[0]["x"]), float(rows[0]["y"]))
    )


def test_the_command(run: Run, tmp_path: Path) -> None:
    write_image(tmp_path / "moving.nii.gz", head(grid(MOVING_SHAPE, MOVING)), MOVING)
    write_image(tmp_path / "fixed.nii.gz", head(moved(grid(FIXED_SHAPE, FIXED), TURN)), FIXED)
    table(tmp_path / "a.csv", PLACES)
    out = tmp_path / "out"
    common = (
        "register", tmp_path / "moving.nii.gz", tmp_path / "fixed.nii.gz", "--output", out,
        "--transform", "rigid",
    )  # fmt: skip
    code, printed, err = run(*common, "--moving-points", tmp_path / "a.csv")
    assert (code, err) == (0, "")
    assert "5 carried, 1 outside of the image" in printed
    record = json.loads((out / "registration.json").read_text())
    assert record["points"] == {"moving": {"count": 5, "outside": 1}}
    assert "moving_points_in_fixed.csv" in record["files"]
    back = moved(places_of(out / "moving_points_in_fixed.csv").T, TURN).T
    assert np.linalg.norm(back - PLACES, axis=1)[:4].max() < 1.5
    assert run(*common, "--fixed-points", tmp_path / "a.csv")[0] == 0
    assert (out / "fixed_points_in_moving.csv").is_file()
    assert not (out / "moving_points_in_fixed.csv").exists()


REFUSED = {
    "another kind": ("a.txt", "x,y,z\n1,2,3\n", "expected points in .csv, .fcsv, .vtk, .vtp"),
    "no z alone": ("a.csv", "x,z\n1,2\n", "expected columns x, y and z in the first line"),
    "no names": ("a.csv", "1,2,3\n4,5,6\n", "expected columns x, y and z in the first line"),
    "twice": ("a.csv", "x,y,z,x\n1,2,3,4\n", "expected columns x, y and z in the first line"),
    "empty": ("a.csv", "", "expected columns x, y and z in the first line"),
    "no points": ("a.csv", "x,y,z\n", "holds no points"),
    "ragged": ("a.csv", "x,y,z\n1,2,3\n1,2\n", "expected 3 values in point 2, got"),
    "words": ("a.csv", "x,y,z\n1,2,three\n", "point 1 has no place"),
    "nan": ("a.csv", "x,y,z\n1,2,nan\n", "point 1 is NaN or infinite"),
    "no surface": ("a.vtk", "hello\n", "expected a surface, VTK's PolyData"),
    "no xml": ("a.vtp", "hello\n", "damaged"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(tmp_path: Path, case: str, capfd: pytest.CaptureFixture[str]) -> None:
    name, text, message = REFUSED[case]
    if name.endswith(("vtk", "vtp")):
        pytest.importorskip("vtkmodules")
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name}: .*{message}"):
        read_points(tmp_path / name)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("suffix", ["vtk", "vtp"])
def test_surfaces_cut_short(
    tmp_path: Path, suffix: str, binary: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("vtkmodules")
    from vtkmodules.vtkFiltersSources import vtkSphereSource
    from vtkmodules.vtkIOLegacy import vtkPolyDataWriter
    from vtkmodules.vtkIOXML import vtkXMLPolyDataWriter

    sphere = vtkSphereSource()
    sphere.Update()
    writer = vtkPolyDataWriter() if suffix == "vtk" else vtkXMLPolyDataWriter()
    if suffix == "vtk" and binary:
        writer.SetFileTypeToBinary()
    if suffix == "vtp" and not binary:
        writer.SetDataModeToAscii()
    writer.SetInputData(sphere.GetOutput())
    writer.SetFileName(str(tmp_path / f"a.{suffix}"))
    writer.Write()
    whole = (tmp_path / f"a.{suffix}").read_bytes()
    assert len(read_points(tmp_path / f"a.{suffix}").places) == 50
    for share in (0.01, 0.03, 0.1, 0.2):
        (tmp_path / f"b.{suffix}").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match=rf"b\.{suffix}: "):
            read_points(tmp_path / f"b.{suffix}")
    assert capfd.readouterr().err == ""


def test_surfaces_without_vtk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vtkmodules", None)
    (tmp_path / "a.vtk").write_text("a surface")
    with pytest.raises(RuntimeError, match=r"a\.vtk: reading it needs VTK.*plasticine\[surfaces\]"):
        read_points(tmp_path / "a.vtk")


def test_no_file(tmp_path: Path) -> None:
    for suffix in ("csv", "vtk", "vtp"):
        with pytest.raises(FileNotFoundError, match="no such file"):
            read_points(tmp_path / f"none.{suffix}")


def test_x_and_y_of_a_volume(registered: tuple[VolumeRegistration, Path], tmp_path: Path) -> None:
    result, _ = registered
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    with pytest.raises(ValueError, match=r"a\.csv: expected columns x, y and z of fixed\.nii\.gz"):
        register_volumes(
            result.moving, result.fixed, fixed_points=tmp_path / "a.csv", transform="rigid"
        )


def test_labels_lie_where_points_do(registered: tuple[VolumeRegistration, Path]) -> None:
    """The centre of the fixed head's ventricle goes to that of the moving one."""
    result, _ = registered
    fixed = labels(moved(bent(grid(FIXED_SHAPE, FIXED)), TURN)) == 300
    centre = grid(FIXED_SHAPE, FIXED)[:, fixed].mean(1)
    voxel = np.rint(np.linalg.inv(FIXED) @ [*centre, 1]).astype(int)[:3]
    there = moved(np.indices(FIXED_SHAPE) + result.displacement, FIXED)[(slice(None), *voxel)]
    assert np.linalg.norm(there - (8, 10, 6)) < 6
