"""The report of a registration: what it says, and that it needs nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from drawn_head import bent, centred, grid, head, labels, volume
from PIL import Image

from plasticine.io import VolumeRegistration, register_volumes, write_image, write_labels
from plasticine.report import draw_registration, write_registration
from plasticine.report.document import meter, notes, table
from plasticine.report.viewer import read_case, write_report

SHAPE = (30, 32, 26)
AFFINE = centred(np.diag([5.5, -5.5, 6, 1.0]), SHAPE)


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> VolumeRegistration:
    folder = tmp_path_factory.mktemp("labels")
    places = grid(SHAPE, AFFINE)
    for name, where in (("moving", places), ("fixed", bent(places))):
        write_labels(folder / f"{name}.nii.gz", labels(where), AFFINE)
    return register_volumes(
        volume(head(places), AFFINE, "<b>moving</b> & co.nii.gz"),
        volume(head(bent(places)), AFFINE, "fixed.nii.gz"),
        budget="fast",
        moving_labels=folder / "moving.nii.gz",
        fixed_labels=folder / "fixed.nii.gz",
    )


def test_the_page_says_what_the_record_holds(
    registered: VolumeRegistration, tmp_path: Path
) -> None:
    for role, image in (("moving", registered.moving), ("fixed", registered.fixed)):
        write_image(tmp_path / f"{role}.nii.gz", image.data, AFFINE)
    record = write_registration(registered, tmp_path)
    case = read_case(tmp_path, source=tmp_path / "moving.nii.gz", fixed=tmp_path / "fixed.nii.gz")
    write_report(case, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;moving&lt;/b&gt; &amp; co.nii.gz" in text
    assert "<b>moving" not in text
    for said in (
        "Dice: ",
        f"mean of {record['dice']['labels']} labels",
        f"0 (J ≤ 0, central differences, {record['folding']['region']} region)",
        f"{record['similarity']['after']['lncc']:.4g}",
        "label interpolation",
        "registration.json",
    ):
        assert said in text
    assert text.count("<meter ") == record["dice"]["labels"]
    assert "Points" not in text


def test_values_as_text() -> None:
    rows = [("a", None, True, -0.0, 1 / 3), ("b", "nan", [1, 2], [[1.0, 0.5], [0, 1]], "<i>")]
    text = table("x & y", rows, ("", "1", "2", "3", "4"))
    for cell in ("–", "yes", "0", "0.3333", "nan", "1 2", "1 0.5<br>0 1", "&lt;i&gt;"):
        assert f"<td>{cell}</td>" in text
    assert "<h2>x &amp; y</h2>" in text
    assert meter(0.5) == '<meter value="0.5000"></meter> 0.500'
    assert notes([]) == ""
    assert "a &lt; b" in notes(["a < b"])


def test_images_that_do_not_meet_by_their_headers(tmp_path: Path) -> None:
    """A slab, a metre away: nothing to compare before, and little of it is wide."""
    shape = (30, 32, 5)
    affine = AFFINE.copy()
    places = grid(shape, affine)
    away = affine.copy()
    away[:3, 3] += 1000
    result = register_volumes(
        volume(head(places), away), volume(head(places), affine), transform="rigid"
    )
    draw_registration(result, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 1500
