"""The command line on bad input: a clear line, no traceback, and nothing written."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Process, Run
from PIL import Image

from plasticine import cli
from plasticine.translation import Translator


def _not_nifti(folder: Path) -> Path:
    (folder / "bad.nii.gz").write_text("not an image")
    return folder / "bad.nii.gz"


def _coloured(folder: Path) -> Path:
    Image.new("RGB", (20, 20), (1, 2, 3)).save(folder / "bad.png")
    return folder / "bad.png"


# Of each kind of error; test_io has what else is wrong with files, test_model_file with models.
BAD_INPUTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "bad.nii.gz", "no such file"),
    "folder": (lambda folder: folder, "got a folder"),
    "not NIfTI": (_not_nifti, "not a NIfTI file"),
    "colours": (_coloured, "expected a grey picture, got RGB colours"),
}


def _text_model(folder: Path) -> Path:
    (folder / "model.safetensors").write_text("not a model")
    return folder / "model.safetensors"


BAD_MODELS: dict[str, Callable[[Path], Path | str]] = {
    "missing": lambda folder: folder / "model.safetensors",
    "unknown name": lambda folder: "brain-t1-t9",
    "not safetensors": _text_model,
}


def _assert_clear_error(result: tuple[int, str, str], message: str) -> None:
    code, out, err = result
    assert code == 1
    assert out == ""
    assert re.fullmatch(rf"error: .*{message}.*\n", err), err
    assert "Traceback" not in err


class TestBadInput:
    @pytest.mark.parametrize("case", BAD_INPUTS)
    def test_input(self, run: Run, model_file: Path, tmp_path: Path, case: str) -> None:
        make, message = BAD_INPUTS[case]
        source, out = make(tmp_path), tmp_path / "results" / "out"
        result = run("translate", source, "--model", model_file, "--output", out)
        _assert_clear_error(result, f"{re.escape(str(source))}: .*{message}")
        assert not out.parent.exists()

    @pytest.mark.parametrize("case", BAD_MODELS)
    def test_model(self, run: Run, head: Path, tmp_path: Path, case: str) -> None:
        model, out = BAD_MODELS[case](tmp_path), tmp_path / "out"
        result = run("translate", head, "--model", model, "--output", out)
        _assert_clear_error(result, re.escape(str(model)))
        assert not out.exists()

    def test_output_that_cannot_be_written(
        self, run: Run, head: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def translate(*arguments: object, **options: object) -> None:
            raise AssertionError("translated before the folder was tried")

        monkeypatch.setattr(Translator, "translate", translate)
        for folder in (head, head / "below"):
            result = run("translate", head, "--model", model_file, "--output", folder)
            _assert_clear_error(result, re.escape(str(folder)) + ".*is a file")

    def test_failure_while_writing_leaves_the_earlier_result(
        self,
        run: Run,
        head: Path,
        model_file: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def full_disk(*arguments: object, **options: object) -> None:
            raise OSError(28, "No space left on device")

        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "warped.nii.gz").write_text("earlier")
        monkeypatch.setattr("plasticine.report.results.draw_page", full_disk)
        for out in (tmp_path / "out", tmp_path / "new"):
            result = run("translate", head, "--model", model_file, "--output", out)
            _assert_clear_error(result, "No space left on device")
        assert [p.name for p in (tmp_path / "out").iterdir()] == ["warped.nii.gz"]
        assert (tmp_path / "out" / "warped.nii.gz").read_text() == "earlier"
        assert not (tmp_path / "new").exists()

    @pytest.mark.parametrize("device", ["abacus", "cuda:99"])
    def test_device(
        self, run: Run, head: Path, model_file: Path, tmp_path: Path, device: str
    ) -> None:
        result = run(
            "translate", head, "--model", model_file, "--output", tmp_path / "out",
            "--device", device,
        )  # fmt: skip
        _assert_clear_error(result, f"device '{device}' cannot be used here")
        assert not (tmp_path / "out").exists()

    def test_markup_in_a_name_is_printed_as_it_is(self, run: Run, tmp_path: Path) -> None:
        name = "[red]x[/red][/b].nii"
        result = run("translate", name, "--model", "m", "--output", tmp_path / "out")
        _assert_clear_error(result, re.escape(name))

    def test_debug_shows_the_traceback(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        arguments = ["translate", "none.nii", "--model", "m", "--output", "out", "--debug"]
        monkeypatch.setattr(sys, "argv", ["plasticine", *arguments])
        with pytest.raises(FileNotFoundError, match="no such file"):
            cli.main()

    def test_defects_are_not_hidden(
        self, monkeypatch: pytest.MonkeyPatch, head: Path, tmp_path: Path
    ) -> None:
        def defect(*arguments: object, **options: object) -> None:
            raise KeyError("a defect")

        monkeypatch.setattr(Translator, "load", defect)
        arguments = ["translate", str(head), "--model", "m", "--output", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", ["plasticine", *arguments])
        with pytest.raises(KeyError, match="a defect"):
            cli.main()
        assert not (tmp_path / "out").exists()

    def test_process(self, process: Process, model_file: Path, tmp_path: Path) -> None:
        _not_nifti(tmp_path)
        done = process(
            "translate", "bad.nii.gz", "--model", model_file, "--output", "out", folder=tmp_path
        )
        _assert_clear_error((done.returncode, done.stdout, done.stderr), "bad.nii.gz: not a NIfTI")
        assert [p.name for p in tmp_path.iterdir()] == ["bad.nii.gz"]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["translate"], "Missing argument 'INPUT'"),
            (["translate", "a.nii", "--output", "out"], "Missing option '--model'"),
            (["translate", "a.nii", "--model", "m", "--output", "o", "--steps", "0"], "--steps"),
            (["translate", "a.nii", "--model", "m", "--output", "o", "--seed", "x"], "--seed"),
            (
                ["translate", "a.nii", "--model", "m", "--output", "o", "--samples", "0"],
                "--samples",
            ),
            (["imagine"], "No such command 'imagine'"),
        ],
    )
    def test_usage(self, run: Run, arguments: list[str], message: str) -> None:
        code, _, err = run(*arguments)
        assert code == 2
        assert message in err


class TestOtherCommands:
    def test_demo_without_nilearn(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, model_file: Path, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(Translator, "shipped", staticmethod(lambda: {}))
        monkeypatch.setattr("plasticine.demo.MODEL", str(model_file))
        monkeypatch.setitem(sys.modules, "nilearn.datasets", None)
        result = run("demo", "--output", tmp_path / "out")
        _assert_clear_error(result, r"pip install .plasticine\[demo\]")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("recipe", "message"),
        [
            ("brain-t1-t2", "no training data at"),
            ("nonsense", "no recipe 'nonsense'"),
        ],
    )
    def test_train_refuses(self, run: Run, tmp_path: Path, recipe: str, message: str) -> None:
        (tmp_path / "data").mkdir()
        result = run(
            "train", "--recipe", recipe, "--data", tmp_path / "data", "--output", tmp_path / "out"
        )
        _assert_clear_error(result, message)

    def test_train_needs_data(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("PLASTICINE_DATA", raising=False)
        result = run("train", "--recipe", "brain-t1-t2", "--output", "out")
        _assert_clear_error(result, "data folder")

    def test_train_needs_both_folders(self, run: Run) -> None:
        result = run("train", "--recipe", "brain-t1-t2", "--output", "out", "--source", ".")
        _assert_clear_error(result, "--source and --target")

    @pytest.mark.parametrize("seed", [2**70, 2**48])
    def test_a_seed_that_is_too_large(
        self, run: Run, head: Path, model_file: Path, tmp_path: Path, seed: int
    ) -> None:
        out = tmp_path / "out"
        result = run("translate", head, "--model", model_file, "--output", out, "--seed", str(seed))
        _assert_clear_error(result, rf"seed must lie within 0 … {2**48 - 1} .*; got {seed}")
        assert not out.exists()
        result = run("train", "--recipe", "brain-t1-t2", "--output", out, "--seed", str(seed))
        _assert_clear_error(result, rf"seed must lie within 0 … {2**32 - 1} .*; got {seed}")
        assert not out.exists()

    @pytest.mark.parametrize(
        "arguments",
        [
            ("translate", "head.nii.gz", "--model", "m", "--output", ""),
            ("translate", "", "--model", "m", "--output", "out"),
            ("translate", "head.nii.gz", "--model", "m", "--output", "out", "--labels", " "),
            ("demo", "--output", ""),
            ("train", "--recipe", "brain-t1-t2", "--output", ""),
            ("train", "--recipe", "brain-t1-t2", "--output", "out", "--source", ""),
            ("evaluate", ""),
            ("evaluate", "out", "--output", ""),
        ],
        ids=" ".join,
    )
    def test_an_empty_path_is_not_the_current_folder(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: tuple[str, ...]
    ) -> None:
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        code, _, err = run(*arguments)
        assert code == 2
        assert "expected a path, got an empty one" in " ".join(err.split())
        assert not list((tmp_path / "here").iterdir())
