"""A list of cases through the command line: translate, register, evaluate."""

from __future__ import annotations

import csv
import importlib
import json
import re
import shutil
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
from command_line import Process, Run

from plasticine.cli.cases import find, images_within, names_of
from plasticine.metrics import paired_test
from plasticine.report import RESULT_FILES


@pytest.fixture
def cohort(head: Path, tmp_path: Path) -> Path:
    """A folder of three heads, one of which cannot be read."""
    folder = tmp_path / "data"
    folder.mkdir()
    image = nibabel.load(head)
    for name, factor in (("ann", 1.0), ("bob", 0.8)):
        values = (np.asarray(image.dataobj) * factor).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(values, image.affine), folder / f"{name}.nii.gz")
    (folder / "bad.nii.gz").write_text("not an image")
    return folder


def rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def test_a_cohort(process: Process, cohort: Path, model_file: Path, tmp_path: Path) -> None:
    command = ("translate", "-i", "data", "-m", model_file, "-o", "out", "--steps", "1")
    planned = process(*command, "--dry-run", "--json", folder=tmp_path)
    lines = [json.loads(line) for line in planned.stdout.splitlines()]
    assert [line.get("status") for line in lines] == ["planned"] * 3 + [None]
    assert not (tmp_path / "out").exists()
    done = process(*command, folder=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "2 done, 1 failed" in done.stdout
    assert "failed: bad: data/bad.nii.gz: not a NIfTI file" in done.stdout
    assert "Traceback" not in done.stderr
    for name in ("ann", "bob"):
        assert {p.name for p in (tmp_path / "out" / name).iterdir()} == set(RESULT_FILES)
    assert not (tmp_path / "out" / "bad").exists()
    table = rows(tmp_path / "out" / "translations.csv")
    found = {name: row["status"] for name, row in table.items()}
    assert found == {"ann": "done", "bad": "failed", "bob": "done"}
    assert table["ann"]["folding.folds"] == "0"
    assert float(table["bob"]["metrics.displacement_max_mm"]) > 0.5
    before = (tmp_path / "out" / "ann" / "trace.json").stat().st_mtime_ns
    shutil.copy(cohort / "ann.nii.gz", cohort / "bad.nii.gz")
    again = process(*command, "--jobs", "2", "--json", folder=tmp_path)
    assert again.returncode == 0, again.stderr
    lines = [json.loads(line) for line in again.stdout.splitlines()]
    found = {line["case"]: line["status"] for line in lines[:-1]}
    assert found == {"ann": "skipped", "bob": "skipped", "bad": "done"}
    assert lines[-1]["skipped"] == 2
    assert (tmp_path / "out" / "ann" / "trace.json").stat().st_mtime_ns == before
    assert rows(tmp_path / "out" / "translations.csv")["bad"]["status"] == "done"


def test_shares_and_other_results(
    run: Run, cohort: Path, model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cohort / "bad.nii.gz").unlink()
    out = tmp_path / "out"
    command = ("translate", cohort, "-m", model_file, "-o", out, "--steps", "1", "-q")
    assert run(*command, "--part", "2/2") == (0, "", "")
    assert [p.name for p in out.iterdir() if p.is_dir()] == ["bob"]
    assert rows(out / "translations.csv")["ann"]["status"] == "not done"
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(*command) == (0, "", "")
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    assert {row["status"] for row in rows(out / "translations.csv").values()} == {"done"}
    code, _, err = run("translate", cohort / "ann.nii.gz", "-m", model_file, "-o", out / "ann")
    assert code == 1
    assert "holds another translation (steps 1, now None); --overwrite replaces it" in err
    code, _, _ = run(
        "translate", cohort / "ann.nii.gz", "-m", model_file, "-o", out / "ann", "--overwrite"
    )
    assert code == 0
    for part in ("0/2", "3/2", "2", "a/b"):
        code, _, err = run(*command, "--part", part)
        assert code == 2
        assert "expected i/n" in err


def test_what_arguments_stand_for(cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert not find([cohort / "ann.nii.gz"], images_within, out).several
    assert [p.name for p in find([str(cohort / "[ab]*.gz")], images_within, out).paths] == [
        "ann.nii.gz", "bad.nii.gz", "bob.nii.gz"
    ]  # fmt: skip
    both = find([cohort / "ann.nii.gz", cohort], images_within, out)
    assert len(both.paths) == 3
    other = tmp_path / "other" / "ann.nii.gz"
    other.parent.mkdir()
    other.touch()
    assert names_of([cohort / "ann.nii.gz", other]) == ["data/ann", "other/ann"]
    twice = [cohort / "ann.nii.gz", cohort / "ann.png"]
    assert names_of(twice) == ["ann.nii.gz", "ann.png"]
    series = tmp_path / "scans" / "one"
    series.mkdir(parents=True)
    (series / "1.dcm").touch()
    assert find([tmp_path / "scans"], images_within, out).paths == [series]
    assert not find([series], images_within, out).several


def test_register_and_evaluate(
    run: Run, cohort: Path, head: Path, model_file: Path, tmp_path: Path
) -> None:
    (cohort / "bad.nii.gz").unlink()
    (tmp_path / "pairs.csv").write_text("moving,fixed\ndata/ann.nii.gz,head.nii.gz\n")
    common = ("--transform", "rigid", "-q")
    code, out, err = run("register", cohort, head, "-o", tmp_path / "to_head", *common)
    assert (code, out, err) == (0, "", "")
    table = rows(tmp_path / "to_head" / "registrations.csv")
    assert {name: row["status"] for name, row in table.items()} == {"ann": "done", "bob": "done"}
    assert float(table["ann"]["similarity.after.lncc"]) > 0.9
    command = ("register", "--pairs", tmp_path / "pairs.csv", "-o", tmp_path / "listed", *common)
    assert run(*command)[0] == 0
    assert (tmp_path / "listed" / "ann_to_head" / "registration.json").is_file()
    (tmp_path / "pairs.csv").write_text("moving\ndata/ann.nii.gz\n")
    code, _, err = run(*command)
    assert code == 1
    assert "pair 1: expected moving and fixed" in err
    assert run("register", head, "-o", tmp_path / "none")[0] == 2
    for name, steps in (("first", "1"), ("second", "2")):
        folder = tmp_path / name
        options = ("-m", model_file, "-o", folder, "--steps", steps, "-q")
        assert run("translate", cohort, *options)[0] == 0
    code, out, err = run(
        "evaluate", tmp_path / "first", "--against", tmp_path / "second", "--truth", cohort,
        "-o", tmp_path / "figures",
    )  # fmt: skip
    assert code == 0, err
    assert "Paired comparison" in out
    with (tmp_path / "figures" / "comparison.csv").open(newline="") as file:
        compared = {row["figure"]: row for row in csv.DictReader(file)}
    row = compared["truth.translated.psnr"]
    assert row["cases"] == "2"
    assert float(row["difference"]) == pytest.approx(float(row["first"]) - float(row["second"]))


def test_the_worst_labels_are_printed_and_all_are_written(
    run: Run, head: Path, model_file: Path, tmp_path: Path
) -> None:
    out, labels = tmp_path / "out", tmp_path / "labels.nii.gz"
    assert run("translate", head, "-m", model_file, "-o", out, "--no-deform")[0] == 0
    image = nibabel.load(head)
    columns = np.broadcast_to(np.arange(24)[:, None, None] // 2, image.shape).astype(np.int16)
    target = columns.copy()
    for label in range(1, 12):
        target[columns[:, 0, 0] == label, :label] = 0  # Dice falls with the label
    for path, values in ((labels, columns), (tmp_path / "target.nii.gz", target)):
        nibabel.save(nibabel.Nifti1Image(values, image.affine), path)
    code, printed, _ = run(
        "evaluate", out, "--labels", labels, "--target-labels", tmp_path / "target.nii.gz"
    )
    assert code == 0
    shown = re.findall(r"│ (\d+) +│ source_volume_ml", printed)
    record = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))["labels"]
    assert len(record) == 11
    assert shown == ["11", "10", "9", "8", "7"]
    assert "6 more" in printed
    assert "mean_of_labels" in printed
    written = (out / "evaluation.csv").read_text(encoding="utf-8")
    assert all(f"labels,{label},dice," in written for label in record)


def test_a_paired_test_against_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(5)
    for count in (5, 9, 40):
        first = generator.normal(size=count)
        second = first + generator.normal(0.3, 0.5, size=count)
        expected = stats.permutation_test(
            (first, second), lambda a, b: np.mean(a - b), permutation_type="samples",
            n_resamples=20_000, random_state=1,
        ).pvalue  # fmt: skip
        found = paired_test(first.tolist(), second.tolist())
        assert found.p_value == pytest.approx(expected, abs=1e-12 if count < 14 else 0.01)
        assert found.difference == pytest.approx(float((first - second).mean()))
    with pytest.raises(ValueError, match="finite"):
        paired_test([1.0, float("nan")], [1.0, 2.0])
    with pytest.raises(ValueError, match="same cases"):
        paired_test([1.0], [1.0, 2.0])


def test_progress_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    progress_module = importlib.import_module("plasticine.cli.progress")
    monkeypatch.setattr(progress_module, "LINE_EVERY", 0.01)
    with progress_module.progress("translating") as advance:
        advance(3, 12)
        told = ""
        while "translating: 3 of 12" not in told:
            time.sleep(0.01)
            told += capsys.readouterr().err
    assert "left" in told
    with progress_module.progress("translating", quiet=True) as advance:
        advance(3, 12)
        time.sleep(0.05)
    assert capsys.readouterr().err == ""


def test_completion_is_offered(process: Process, tmp_path: Path) -> None:
    done = process("--show-completion", "bash", folder=tmp_path)
    assert "_PLASTICINE_COMPLETE" in done.stdout + done.stderr
