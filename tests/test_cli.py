"""The command line, as a process where that matters and in this process for every bad input."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from plasticine import cli
from plasticine.report import RESULT_FILES
from plasticine.translation import Translator

# Stands for a machine without a network: every connection is refused.
NO_NETWORK = """
import socket

def refuse(*arguments, **options):
    raise RuntimeError("the network was used")

socket.socket.connect = socket.socket.connect_ex = socket.create_connection = refuse
socket.getaddrinfo = refuse
"""


def _process(
    *arguments: str | Path, folder: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs ``python -m plasticine`` in a folder of its own, as a user would."""
    environment = {k: v for k, v in os.environ.items() if k != "PLASTICINE_DATA"}
    environment |= {"OMP_NUM_THREADS": "1", "COLUMNS": "120", **variables}
    return subprocess.run(
        [sys.executable, "-m", "plasticine", *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line in this process: exit code, stdout, stderr."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["plasticine", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        return int(exit_.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def head(tmp_path: Path) -> Path:
    """A small NIfTI of three axial slices, integers, at the model's spacing."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in (24, 28, 3)), indexing="ij")
    image = 200 * np.clip(1.2 - np.sqrt(axes[0] ** 2 + axes[1] ** 2 + 0.2 * axes[2] ** 2), 0, 1)
    path = tmp_path / "head.nii.gz"
    nibabel.save(nibabel.Nifti1Image(image.astype(np.uint8), np.diag([2.0, 2, 4, 1])), path)
    return path


class TestTranslate:
    def test_process(self, head: Path, model_file: Path, tmp_path: Path) -> None:
        done = _process(
            "translate", head.name, "--model", model_file, "--output", "out", "--seed", "3",
            "--steps", "1", "--samples", "2", "--solver", "dpm-solver++", folder=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert {p.name for p in (tmp_path / "out").iterdir()} == set(RESULT_FILES)
        for text in ("small", "folds", "central differences, full region", "trace.png", "mm"):
            assert text in done.stdout
        record = json.loads((tmp_path / "out" / "trace.json").read_text(encoding="utf-8"))
        assert record["seed"] == 3
        assert record["arguments"]["steps"] == 1
        assert record["arguments"]["samples"] == 2
        assert record["arguments"]["solver"] == "dpm-solver++"
        assert record["input"]["dtype"] == "uint8"
        field = nibabel.load(tmp_path / "out" / "displacement.nii.gz")
        assert field.shape == (24, 28, 3, 1, 3)
        assert np.abs(np.asarray(field.dataobj)).max() > 0.5

    def test_sampling_options(
        self, run: Callable[..., tuple[int, str, str]], head: Path, model_file: Path, tmp_path: Path
    ) -> None:
        image = nibabel.load(head)
        target = tmp_path / "target.nii.gz"
        flipped = np.asarray(image.dataobj)[::-1].copy()
        nibabel.save(nibabel.Nifti1Image(flipped, image.affine), target)

        def translated(*options: str | Path) -> tuple[dict[str, Any], np.ndarray]:
            out = tmp_path / f"out{len(options)}"
            code, _, err = run("translate", head, "--model", model_file, "--output", out, *options)
            assert (code, err) == (0, "")
            record = json.loads((out / "trace.json").read_text(encoding="utf-8"))
            field = np.asarray(nibabel.load(out / "displacement.nii.gz").dataobj)
            return record["arguments"], field

        _, alone = translated()
        arguments, field = translated(
            "--reference", target, "--guidance", "2", "--start", "0.5", "--precision", "bfloat16"
        )
        assert arguments["optimise"] is None
        assert arguments["reference"] is True
        assert arguments["guidance"] == 2
        assert arguments["start"] == 0.5
        assert arguments["precision"] == "bfloat16"
        assert not np.allclose(field, alone)
        arguments, optimised = translated("--reference", target, "--optimise")
        assert arguments["optimise"]["levels"][0]["factor"] == 4
        assert not np.allclose(field, optimised, atol=0.1)
        for options, message in (
            (("--precision", "float8"), "precision must be one of"),
            (("--start", "0"), "start must lie within"),
            (("--reference", tmp_path / "none.nii.gz"), "none.nii.gz"),
            (("--optimise",), "instance optimisation needs a reference"),
            (("--optimise", "--no-deform"), "deform=False forbids"),
        ):
            code, _, err = run(
                "translate", head, "--model", model_file, "--output", tmp_path / "x", *options
            )
            assert code == 1
            assert message in err

    def test_no_deform(
        self, run: Callable[..., tuple[int, str, str]], head: Path, model_file: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        code, _, err = run("translate", head, "--model", model_file, "--output", out, "--no-deform")
        assert (code, err) == (0, "")
        assert not np.asarray(nibabel.load(out / "displacement.nii.gz").dataobj).any()
        warped = np.asarray(nibabel.load(out / "warped.nii.gz").dataobj)
        np.testing.assert_array_equal(warped, np.asarray(nibabel.load(head).dataobj))
        assert json.loads((out / "trace.json").read_text())["arguments"]["deform"] is False

    def test_seed_and_replacing_an_earlier_result(
        self, run: Callable[..., tuple[int, str, str]], head: Path, model_file: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        images = []
        for seed in (1, 2, 1):
            code, _, _ = run(
                "translate", head, "--model", model_file, "--output", out, "--seed", str(seed)
            )
            assert code == 0
            images.append(np.asarray(nibabel.load(out / "translated.nii.gz").dataobj))
        np.testing.assert_array_equal(images[0], images[2])
        assert (images[0] != images[1]).any()
        assert {p.name for p in out.iterdir()} == set(RESULT_FILES)

    @pytest.mark.parametrize("name", ["one.png", "one.npy", "stack.npy"])
    def test_other_inputs(
        self, run: Callable[..., tuple[int, str, str]], model_file: Path, tmp_path: Path, name: str
    ) -> None:
        image = (np.indices((3, 30, 26)).sum(0) * 4).astype(np.uint8)
        data = image if name == "stack.npy" else image[0]
        if name.endswith("png"):
            Image.fromarray(data).save(tmp_path / name)
        else:
            np.save(tmp_path / name, data)
        out = tmp_path / "out"
        code, stdout, err = run(
            "translate", tmp_path / name, "--model", model_file, "--output", out
        )
        assert (code, err) == (0, "")
        assert "1 mm voxels" in stdout
        shape = data.shape if data.ndim == 3 else (*data.shape, 1)
        assert nibabel.load(out / "translated.nii.gz").shape == shape


def _not_nifti(folder: Path) -> Path:
    (folder / "bad.nii.gz").write_text("not an image")
    return folder / "bad.nii.gz"


def _nan(folder: Path) -> Path:
    np.save(folder / "bad.npy", np.full((20, 20), np.nan))
    return folder / "bad.npy"


def _black(folder: Path) -> Path:
    np.save(folder / "bad.npy", np.zeros((20, 20), np.uint8))
    return folder / "bad.npy"


def _four_axes(folder: Path) -> Path:
    np.save(folder / "bad.npy", np.ones((2, 2, 20, 20)))
    return folder / "bad.npy"


def _complex(folder: Path) -> Path:
    np.save(folder / "bad.npy", np.ones((20, 20), np.complex64))
    return folder / "bad.npy"


def _vector_field(folder: Path) -> Path:
    image = nibabel.Nifti1Image(np.ones((20, 20, 2, 1, 3), np.float32), np.eye(4))
    nibabel.save(image, folder / "bad.nii.gz")
    return folder / "bad.nii.gz"


def _coloured(folder: Path) -> Path:
    Image.new("RGB", (20, 20), (1, 2, 3)).save(folder / "bad.png")
    return folder / "bad.png"


BAD_INPUTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "bad.nii.gz", "no such file"),
    "folder": (lambda folder: folder, "got a folder"),
    "not NIfTI": (_not_nifti, "not a NIfTI file"),
    "NaN": (_nan, "400 of 400 voxels are NaN or infinite"),
    "black": (_black, "no voxel is above 0"),
    "four axes": (_four_axes, r"got shape \(2, 2, 20, 20\)"),
    "complex": (_complex, "expected real numbers, got complex64"),
    "vector field": (_vector_field, r"2D or 3D image, got shape \(20, 20, 2, 1, 3\)"),
    "colours": (_coloured, "expected a grey picture, got RGB colours"),
}


def _no_model(folder: Path) -> Path | str:
    return folder / "model.safetensors"


def _unknown_name(folder: Path) -> Path | str:
    return "brain-t1-t9"


def _text_model(folder: Path) -> Path | str:
    (folder / "model.safetensors").write_text("not a model")
    return folder / "model.safetensors"


def _foreign_model(folder: Path) -> Path | str:
    safetensors.torch.save_file({"a": torch.ones(2)}, folder / "model.safetensors")
    return folder / "model.safetensors"


BAD_MODELS: dict[str, Callable[[Path], Path | str]] = {
    "missing": _no_model,
    "unknown name": _unknown_name,
    "not safetensors": _text_model,
    "another project's": _foreign_model,
}


def _assert_clear_error(result: tuple[int, str, str], message: str) -> None:
    code, out, err = result
    assert code == 1
    assert out == ""
    assert re.fullmatch(rf"error: .*{message}.*\n", err), err
    assert "Traceback" not in err


class TestBadInput:
    @pytest.mark.parametrize("case", BAD_INPUTS)
    def test_input(
        self,
        run: Callable[..., tuple[int, str, str]],
        model_file: Path,
        tmp_path: Path,
        case: str,
    ) -> None:
        make, message = BAD_INPUTS[case]
        source, out = make(tmp_path), tmp_path / "results" / "out"
        result = run("translate", source, "--model", model_file, "--output", out)
        _assert_clear_error(result, f"{re.escape(str(source))}: .*{message}")
        assert not out.parent.exists()

    @pytest.mark.parametrize("case", BAD_MODELS)
    def test_model(
        self, run: Callable[..., tuple[int, str, str]], head: Path, tmp_path: Path, case: str
    ) -> None:
        model, out = BAD_MODELS[case](tmp_path), tmp_path / "out"
        result = run("translate", head, "--model", model, "--output", out)
        _assert_clear_error(result, re.escape(str(model)))
        assert not out.exists()

    def test_model_of_another_version(
        self, run: Callable[..., tuple[int, str, str]], head: Path, model_file: Path, tmp_path: Path
    ) -> None:
        with safetensors.safe_open(model_file, framework="pt") as stored:
            metadata = {**stored.metadata(), "format_version": "99"}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        model = tmp_path / "model.safetensors"
        safetensors.torch.save_file(tensors, model, metadata)
        out = tmp_path / "out"
        result = run("translate", head, "--model", model, "--output", out)
        _assert_clear_error(result, "version 99.*version 1")
        assert not out.exists()

    def test_output_that_cannot_be_written(
        self,
        run: Callable[..., tuple[int, str, str]],
        head: Path,
        model_file: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def translate(*arguments: object, **options: object) -> None:
            raise AssertionError("translated before the folder was tried")

        monkeypatch.setattr(Translator, "translate", translate)
        for folder in (head, head / "below"):
            result = run("translate", head, "--model", model_file, "--output", folder)
            _assert_clear_error(result, re.escape(str(folder)) + ".*is a file")

    def test_failure_while_writing_leaves_the_earlier_result(
        self,
        run: Callable[..., tuple[int, str, str]],
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
        self,
        run: Callable[..., tuple[int, str, str]],
        head: Path,
        model_file: Path,
        tmp_path: Path,
        device: str,
    ) -> None:
        result = run(
            "translate", head, "--model", model_file, "--output", tmp_path / "out",
            "--device", device,
        )  # fmt: skip
        _assert_clear_error(result, f"device '{device}' cannot be used here")
        assert not (tmp_path / "out").exists()

    def test_markup_in_a_name_is_printed_as_it_is(
        self, run: Callable[..., tuple[int, str, str]], tmp_path: Path
    ) -> None:
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

    def test_process(self, model_file: Path, tmp_path: Path) -> None:
        _not_nifti(tmp_path)
        done = _process(
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
    def test_usage(
        self, run: Callable[..., tuple[int, str, str]], arguments: list[str], message: str
    ) -> None:
        code, _, err = run(*arguments)
        assert code == 2
        assert message in err


class TestOtherCommands:
    def test_version_and_info(self, tmp_path: Path) -> None:
        done = _process("info", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        for text in ("plasticine", "torch", "cpu", "reference", "works"):
            assert text in done.stdout
        assert not list(tmp_path.iterdir())

    def test_help(self, run: Callable[..., tuple[int, str, str]]) -> None:
        code, out, _ = run("--help")
        assert code == 0
        for command in ("info", "demo", "train", "translate"):
            assert command in out

    def test_demo(self, tmp_path: Path) -> None:
        pytest.importorskip("nilearn")
        if "brain-t1-t2" not in Translator.shipped():
            pytest.skip("this build ships no weights")
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "sitecustomize.py").write_text(NO_NETWORK)
        path = os.pathsep.join(
            [str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        done = _process("demo", "--steps", "2", folder=tmp_path, PYTHONPATH=path)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        folder = tmp_path / "plasticine-demo"
        assert {p.name for p in folder.iterdir()} == {"source.nii.gz", *RESULT_FILES}
        source = nibabel.load(folder / "source.nii.gz")
        translated = nibabel.load(folder / "translated.nii.gz")
        assert source.shape == translated.shape
        np.testing.assert_array_equal(source.affine, translated.affine)
        assert nibabel.aff2axcodes(source.affine) == ("R", "A", "S")
        assert 0.2 < float((np.asarray(source.dataobj) > 0.1).mean()) < 0.6
        assert "folds" in done.stdout
        assert "plasticine-demo/trace.png" in done.stdout

    def test_demo_without_nilearn(
        self,
        run: Callable[..., tuple[int, str, str]],
        monkeypatch: pytest.MonkeyPatch,
        model_file: Path,
        tmp_path: Path,
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
    def test_train_refuses(
        self,
        run: Callable[..., tuple[int, str, str]],
        tmp_path: Path,
        recipe: str,
        message: str,
    ) -> None:
        (tmp_path / "data").mkdir()
        result = run(
            "train", "--recipe", recipe, "--data", tmp_path / "data", "--output", tmp_path / "out"
        )
        _assert_clear_error(result, message)

    def test_train_needs_data(
        self, run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("PLASTICINE_DATA", raising=False)
        result = run("train", "--recipe", "brain-t1-t2", "--output", "out")
        _assert_clear_error(result, "data folder")

    def test_train_needs_both_folders(self, run: Callable[..., tuple[int, str, str]]) -> None:
        result = run("train", "--recipe", "brain-t1-t2", "--output", "out", "--source", ".")
        _assert_clear_error(result, "--source and --target")
