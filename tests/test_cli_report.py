"""``plasticine report``, as a process: one folder, several, and what is missing."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import browser as browsers
import pytest
from command_line import Process, Run
from drawn_head import bent, centred, grid, head, labels
from numpy import diag

from plasticine.io import read_volume, register_volumes, translate_volume, write_image, write_labels
from plasticine.report import write_registration, write_results
from plasticine.translation import Translator

SHAPE = (20, 22, 18)
AFFINE = centred(diag([8.0, 8, 8, 1]), SHAPE)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, model_file: Path) -> Path:
    """Two registrations and a translation in one folder, their images beside them."""
    folder = tmp_path_factory.mktemp("made")
    places = grid(SHAPE, AFFINE)
    write_image(folder / "moving.nii.gz", head(places), AFFINE)
    write_image(folder / "fixed.nii.gz", head(bent(places)), AFFINE)
    write_labels(folder / "labels.nii.gz", labels(places), AFFINE)
    volumes = [read_volume(folder / f"{name}.nii.gz") for name in ("moving", "fixed")]
    for name, transform in (("b <1>", "deformable"), ("a", "rigid")):
        (folder / "cases" / name).mkdir(parents=True)
        result = register_volumes(*volumes, transform=transform, budget="fast")
        write_registration(result, folder / "cases" / name)
    (folder / "cases" / "c").mkdir()
    write_image(folder / "slice.nii.gz", head(places)[..., 8:9], AFFINE)
    result = translate_volume(Translator.load(model_file), read_volume(folder / "slice.nii.gz"))
    write_results(result, folder / "cases" / "c")
    return folder


@pytest.fixture
def cases(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "cases", tmp_path / "cases")
    return tmp_path / "cases"


def test_one_folder(process: Process, cases: Path, made: Path) -> None:
    done = process("report", cases / "a", "--labels", made / "labels.nii.gz", folder=made)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == f"Report: {cases / 'a' / 'report.html'}"
    assert not (cases / "index.html").exists()
    text = (cases / "a" / "report.html").read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    assert json.loads(data)["source"]["labels"]["labels"] == [0, *range(10, 18), 300]


def test_several(process: Process, cases: Path, made: Path) -> None:
    done = process("report", cases, folder=made)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == f"Report: {cases / 'index.html'}"
    with browsers.started() as browser:
        page = browser.new_page()
        page.goto((cases / "index.html").as_uri())
        names = page.locator("tbody th")
        assert names.all_inner_texts() == ["a", "b <1>", "c"]
        assert page.locator("tbody img").count() == 6
        heads = page.locator("thead th[aria-sort]")
        column = heads.all_inner_texts().index("moved, most mm")
        moved = {
            name: float(row.locator("td").nth(column).inner_text())
            for name, row in zip(
                names.all_inner_texts(), page.locator("tbody tr").all(), strict=True
            )
        }
        assert moved["a"] == 0  # rigid
        head = heads.nth(column)
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == "ascending"
        assert names.all_inner_texts() == sorted(moved, key=lambda name: moved[name])
        head.locator("button").click()
        assert names.all_inner_texts() == sorted(moved, key=lambda name: -moved[name])
        # What a translation does not have comes last, either way.
        head = heads.nth(heads.all_inner_texts().index("LNCC"))
        for _ in range(2):
            head.locator("button").click()
            assert names.all_inner_texts()[-1] == "c"
        names.get_by_text("b <1>").click()
        page.wait_for_selector("html[data-ready]", state="attached")
        assert page.locator("h1").inner_text() == "moving.nii.gz → fixed.nii.gz"


def test_an_image_that_has_gone(run: Run, cases: Path, made: Path) -> None:
    record = cases / "a" / "registration.json"
    text = record.read_text(encoding="utf-8").replace(str(made / "moving"), "/gone/moving")
    record.write_text(text, encoding="utf-8")
    code, _, err = run("report", cases / "a")
    assert code == 1
    assert "the image /gone/moving.nii.gz is not there any more; say with --source" in err
    assert not (cases / "a" / "report.html").exists()
    code, _, err = run("report", cases, "--output", cases.parent)
    assert code == 1
    assert "1 of 3 have no report" in err
    index = (cases.parent / "index.html").read_text(encoding="utf-8")
    assert index.count("cases/c/report.html") == 2
    assert "cases/a/report.html" not in index
    (cases / "moving.nii.gz").write_bytes((made / "moving.nii.gz").read_bytes())
    assert run("report", cases / "a")[0] == 0  # it lies beside the folder


def test_refuses(run: Run, cases: Path, made: Path) -> None:
    for arguments, said in (
        ((made / "none",), "expected the folder of a translation or a registration"),
        ((cases / "c", "--fixed", made / "fixed.nii.gz"), "a translation has no fixed image"),
        ((cases / "a", "--source", made / "slice.nii.gz"), "expected an image of (20, 22, 18)"),
        ((cases, "--labels", made / "labels.nii.gz"), "are of one folder; got several"),
    ):
        code, _, err = run("report", *arguments)
        assert code == 1
        assert said in err
    (cases / "b <1>" / "jacobian.nii.gz").unlink()
    assert "without jacobian.nii.gz" in run("report", cases / "b <1>")[2]


def test_labels_that_have_gone_are_left_out(run: Run, cases: Path, made: Path) -> None:
    record = cases / "a" / "registration.json"
    facts = json.loads(record.read_text(encoding="utf-8"))
    facts["arguments"]["moving_labels"] = "/gone/labels.nii.gz"
    record.write_text(json.dumps(facts), encoding="utf-8")
    assert run("report", cases / "a")[0] == 0
    code, _, err = run("report", cases / "a", "--labels", made / "none.nii.gz")
    assert (code, err.strip()) == (1, f"error: no file {made / 'none.nii.gz'}")
