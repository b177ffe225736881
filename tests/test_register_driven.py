"""Files that drive a registration: further images, labels, landmarks; and the command with them."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Run, ran
from drawn_head import bent, centred, grid, head, labels, moved, turned, volume
from image_files import TO_RAS, oblique
from PIL import Image

from plasticine.io import read_volume, register_volumes, write_image, write_labels
from plasticine.io.landmarks import read_landmarks
from plasticine.io.pair_space import PairSpace
from plasticine.io.similarities import read_similarities
from plasticine.registration import Similarity

FIXED_SHAPE = (30, 34, 28)
FIXED = centred(np.diag([-5.5, 5, 5.5, 1]), FIXED_SHAPE)
MOVING_SHAPE = (40, 32, 34)
MOVING = centred(oblique((4.5, 5.5, 5.0), "SLA"), MOVING_SHAPE)
TURN = turned(10, (5, -6, 8))
# In the fixed head, RAS+ millimetres.
PLACES = np.array(
    [[0, 0, 0], [30, 12, -20], [-25, 30, 15], [10, -40, 5], [-30, -20, -10], [20, 40, 20]], float
)
PATIENCE = 120.0


def truth(places: np.ndarray) -> np.ndarray:
    """Fixed millimetres to moving ones, ``(N, 3)``."""
    return moved(bent(places.T), TURN).T


def write_table(path: Path, places: np.ndarray, names: str = "abcdef") -> None:
    """As ANTs has it: LPS+."""
    rows = [f"{x},{y},{z},{name}" for (x, y, z), name in zip(places, names, strict=False)]
    path.write_text("\n".join(["x,y,z,label", *rows]) + "\n")


def write_fiducials(path: Path, places: np.ndarray, axes: str = "LPS") -> None:
    """As 3D Slicer has it."""
    rows = [f"{n},{x},{y},{z},0,0,0,1,1,1,0,F-{n},," for n, (x, y, z) in enumerate(places)]
    header = [
        "# Markups fiducial file version = 4.11",
        f"# CoordinateSystem = {axes}",
        "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID",
    ]
    path.write_text("\n".join([*header, *rows]) + "\n")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two heads of two contrasts, their label maps and landmarks."""
    folder = tmp_path_factory.mktemp("heads")
    moving, fixed = grid(MOVING_SHAPE, MOVING), moved(bent(grid(FIXED_SHAPE, FIXED)), TURN)
    for name, places, affine in (("moving", moving, MOVING), ("fixed", fixed, FIXED)):
        write_image(folder / f"{name}.nii.gz", head(places), affine)
        write_image(folder / f"{name}_2.nii.gz", (255 - head(places)) ** 2 / 7, affine)
        write_labels(folder / f"{name}_labels.nii.gz", labels(places), affine)
    flip = TO_RAS[:3, :3]
    write_table(folder / "fixed.csv", PLACES @ flip)
    write_table(folder / "moving.csv", truth(PLACES) @ flip)
    write_fiducials(folder / "fixed.fcsv", PLACES, "0")
    write_fiducials(folder / "moving.fcsv", truth(PLACES) @ flip)
    return folder


@pytest.fixture(scope="module")
def done(files: Path) -> tuple[dict, str]:
    """The record of a process with all that drives, and what it printed."""
    found = ran(
        *(sys.executable, "-m", "plasticine", "register", "moving.nii.gz", "fixed.nii.gz"),
        *("--output", "out", "--metric", "lncc", "--metric", "mind@2=0.5"),
        *("--moving-channel", "moving_2.nii.gz", "--fixed-channel", "fixed_2.nii.gz"),
        *("--moving-labels", "moving_labels.nii.gz", "--fixed-labels", "fixed_labels.nii.gz"),
        *("--labels-weight", "0.5", "--moving-landmarks", "moving.csv"),
        *("--fixed-landmarks", "fixed.csv", "--budget", "fast"),
        "--report",
        folder=files,
        timeout=PATIENCE,
        OMP_NUM_THREADS="1",
        COLUMNS="120",
    )
    assert (found.returncode, found.stderr) == (0, "")
    return json.loads((files / "out" / "registration.json").read_text("utf-8")), found.stdout


def test_the_command(done: tuple[dict, str], files: Path) -> None:
    record, printed = done
    assert record["arguments"]["metric"] == ["lncc", "mind@2=0.5"]
    assert record["arguments"]["moving_channels"] == ["moving_2.nii.gz"]
    assert record["arguments"]["labels_weight"] == 0.5
    assert record["affine"]["start"] == "initial"
    assert record["dice"]["mean"] > 0.9
    assert record["folding"]["folds"] == 0
    errors = record["landmarks_mm"]
    assert len(errors["after"]["each"]) == 6
    means = [errors[stage]["mean"] for stage in ("before", "affine", "after")]
    assert means == sorted(means, reverse=True)
    assert means[0] > 8
    assert means[2] < 1.0  # of voxels of 5 mm
    assert "6, apart by" in printed
    assert "Landmarks, millimetres apart" in (files / "out" / "report.html").read_text("utf-8")


def test_labels_that_drive_lie_on_each_other(files: Path) -> None:
    volumes = read_volume(files / "moving.nii.gz"), read_volume(files / "fixed.nii.gz")
    maps = {f"{name}_labels": files / f"{name}_labels.nii.gz" for name in ("moving", "fixed")}
    overlap = []
    for weight in (0.0, 1.0):
        found = register_volumes(*volumes, budget="fast", **maps, labels_weight=weight)
        assert found.labels is not None
        assert found.fixed_labels is not None
        either = (found.labels > 0) | (found.fixed_labels > 0)
        overlap.append((found.labels == found.fixed_labels)[either].mean())
    assert overlap[1] > overlap[0] + 0.01


@pytest.mark.parametrize("suffix", [".csv", ".fcsv"])
def test_landmarks_of_files_are_in_space(files: Path, suffix: str) -> None:
    volumes = [read_volume(files / f"{name}.nii.gz").placed("LPS") for name in ("moving", "fixed")]
    space = PairSpace.of(*volumes)
    paths = [files / f"{name}{suffix}" for name in ("moving", "fixed")]
    found = read_landmarks(*paths, *volumes, space, 2.0)
    assert found is not None
    assert found.weight == 2.0
    np.testing.assert_allclose(found.fixed[0].numpy(), PLACES)
    np.testing.assert_allclose(found.moving[0].numpy(), truth(PLACES))


def test_landmarks_of_pictures(run: Run, tmp_path: Path) -> None:
    """Columns x and y are column and row."""
    shape = (70, 60, 1)
    fixed = grid(shape, centred(np.diag([2.5, 2.5, 1, 1]), shape))
    for name, places in (("fixed", fixed), ("moving", fixed)):
        picture = Image.fromarray(head(places)[..., 0].astype(np.uint8))
        picture.save(tmp_path / f"{name}.png")
    # What lies five rows lower in the moving picture: pulled against what it shows.
    (tmp_path / "fixed.csv").write_text("x,y\n30,35\n")
    (tmp_path / "moving.csv").write_text("x,y\n30,38\n")
    code, _, err = run(
        "register", tmp_path / "moving.png", tmp_path / "fixed.png", "--output", tmp_path / "out",
        "--moving-landmarks", tmp_path / "moving.csv", "--fixed-landmarks", tmp_path / "fixed.csv",
        "--landmarks-weight", "30",
    )  # fmt: skip
    assert (code, err) == (0, "")
    record = json.loads((tmp_path / "out" / "registration.json").read_text("utf-8"))
    assert record["landmarks_mm"]["before"]["each"] == pytest.approx([3.0])
    assert record["landmarks_mm"]["after"]["mean"] < 0.6


def test_reads_similarities() -> None:
    assert read_similarities(["lncc"], 1) == (Similarity(),)
    assert read_similarities(["lncc@1=2", "mind@2=.5", "sum_of_squares=1e-1"], 2) == (
        Similarity(weight=2.0, channels=range(1)),
        Similarity("mind", weight=0.5, channels=range(1, 2)),
        Similarity("sum_of_squares", weight=0.1),
    )
    for text, message in (
        ("lncc@", "expected METRIC"),
        ("lncc@0", "is of pair 0, there are 2"),
        ("lncc@3=1", "is of pair 3, there are 2"),
        ("lncc=heavy", "the weight of 'lncc=heavy' is no number"),
        ("lncc=-1", "weight must be positive"),
        ("lncc=nan", "weight must be positive"),
        ("", "expected METRIC"),
        ("ssd", "metric must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            read_similarities([text], 2)


BAD = {
    "channels": (("--moving-channel", "moving_2.nii.gz"), "as many further moving images"),
    "grid": (
        ("--moving-channel", "fixed_2.nii.gz", "--fixed-channel", "fixed_2.nii.gz"),
        "fixed_2.nii.gz: expected the input's shape",
    ),
    "pair": (("--metric", "lncc@2"), "'lncc@2' is of pair 2, there are 1"),
    "weight": (("--labels-weight", "-1"), "labels_weight must be at least 0"),
    "no labels": (("--labels-weight", "1"), "are of both images"),
    "no fixed labels": (
        ("--labels-weight", "1", "--moving-labels", "moving_labels.nii.gz"),
        "are of both images",
    ),
    "one landmark file": (("--fixed-landmarks", "fixed.csv"), "landmarks come in pairs"),
    "no landmark file": (
        ("--moving-landmarks", "none.csv", "--fixed-landmarks", "fixed.csv"),
        "none.csv: no such file",
    ),
    "kind": (
        ("--moving-landmarks", "moving.nii.gz", "--fixed-landmarks", "fixed.csv"),
        r"expected landmarks in .csv, .fcsv",
    ),
    "count": (
        ("--moving-landmarks", "five.csv", "--fixed-landmarks", "fixed.csv"),
        "five.csv has 5 landmarks and fixed.csv has 6",
    ),
    "names": (
        ("--moving-landmarks", "named.csv", "--fixed-landmarks", "fixed.csv"),
        "landmark 3 is 'x' in named.csv and 'c' in fixed.csv",
    ),
    "far": (
        ("--moving-landmarks", "far.csv", "--fixed-landmarks", "far.csv"),
        "must lie within its .* voxels; 1 do not, first of them number 2",
    ),
    "axes": (
        ("--moving-landmarks", "axes.fcsv", "--fixed-landmarks", "fixed.csv"),
        "expected CoordinateSystem RAS or LPS",
    ),
    "fiducials": (
        ("--moving-landmarks", "words.fcsv", "--fixed-landmarks", "fixed.csv"),
        "words.fcsv: a point has no place",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(
    run: Run, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    options, message = BAD[case]
    for file in files.glob("*.*"):
        (tmp_path / file.name).symlink_to(file)
    write_table(tmp_path / "five.csv", PLACES[:5])
    write_table(tmp_path / "named.csv", PLACES, "abxdef")
    write_table(tmp_path / "far.csv", np.array([[0.0, 0, 0], [400, 0, 0]]))
    write_fiducials(tmp_path / "axes.fcsv", PLACES, "IJK")
    (tmp_path / "words.fcsv").write_text("# CoordinateSystem = 0\n1,two,3,4\n")
    monkeypatch.chdir(tmp_path)
    code, printed, err = run(
        "register", "moving.nii.gz", "fixed.nii.gz", "--output", "new", *options
    )
    assert (code, printed) == (1, "")
    assert err.startswith("error: ")
    assert re.search(message, err), err
    assert not (tmp_path / "new").exists()


def test_a_flat_channel_is_refused(tmp_path: Path) -> None:
    flat = np.full(FIXED_SHAPE, 3, np.float32)
    write_image(tmp_path / "flat.nii.gz", flat, FIXED)
    image = volume(head(grid(FIXED_SHAPE, FIXED)), FIXED)
    paths = [tmp_path / "flat.nii.gz"]
    with pytest.raises(ValueError, match=r"flat.nii.gz: the moving image is 3 everywhere"):
        register_volumes(image, image, moving_channels=paths, fixed_channels=paths)


def test_further_images_are_read_to_the_tensors(files: Path) -> None:
    volumes = read_volume(files / "moving.nii.gz"), read_volume(files / "fixed.nii.gz")
    channels = {f"{name}_channels": [files / f"{name}_2.nii.gz"] for name in ("moving", "fixed")}
    both = register_volumes(*volumes, budget="fast", **channels, metric=["lncc"])
    one = register_volumes(*volumes, budget="fast", metric="lncc")
    assert not torch.equal(both.pair.mapping.displacement, one.pair.mapping.displacement)
    assert both.warped.shape == FIXED_SHAPE
    assert both.similarity["after"]["lncc"] > 0.8
