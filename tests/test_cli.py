"""The command line, as a process where that matters; bad input is in test_cli_bad_input."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from command_line import Process, Run
from PIL import Image

import plasticine
from plasticine.report import RESULT_FILES, result_files
from plasticine.translation import Translator

# Stands for a machine without a network: every connection is refused.
NO_NETWORK = """
import socket

def refuse(*arguments, **options):
    raise RuntimeError("the network was used")

socket.socket.connect = socket.socket.connect_ex = socket.create_connection = refuse
socket.getaddrinfo = refuse
"""


class TestTranslate:
    def test_process(self, process: Process, head: Path, model_file: Path, tmp_path: Path) -> None:
        done = process(
            "translate", head.name, "--model", model_file, "--output", "out", "--seed", "3",
            "--steps", "1", "--samples", "2", "--solver", "dpm-solver++", "--report",
            folder=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert {p.name for p in (tmp_path / "out").iterdir()} == {
            *(*result_files(2), "report.html", "structure.nii.gz")
        }
        for text in ("small", "folds", "central differences, full region", "report.html", "mm"):
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

    def test_sampling_options(self, run: Run, head: Path, model_file: Path, tmp_path: Path) -> None:
        image = nibabel.load(head)
        target = tmp_path / "target.nii.gz"
        flipped = np.asarray(image.dataobj)[::-1].copy()
        nibabel.save(nibabel.Nifti1Image(flipped, image.affine), target)

        def translated(*options: str | Path) -> tuple[dict[str, Any], np.ndarray]:
            out = tmp_path / f"out{len(options)}"
            code, _, err = run(
                "translate", head, "--model", model_file, "--output", out, *options, "--overwrite"
            )
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
        arguments, _ = translated("--slab", "16", "--overlap", "8", "--steps", "2", "--seed", "0")
        assert (arguments["slab"], arguments["overlap"]) == (16, 8)
        arguments, field = translated("--no-deform")
        assert arguments["deform"] is False
        assert not field.any()
        for options, message in (
            (("--slab", "15"), "a slab's size must be a multiple of"),
            (("--slab", "16", "--overlap", "16"), "slabs of 16 voxels can overlap by"),
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

    def test_a_picture(self, run: Run, model_file: Path, tmp_path: Path) -> None:
        image = (np.indices((30, 26)).sum(0) * 4).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / "a.png")
        out = tmp_path / "out"
        code, stdout, err = run(
            "translate", tmp_path / "a.png", "--model", model_file, "--output", out
        )
        assert (code, err) == (0, "")
        assert "1 mm voxels" in stdout
        assert nibabel.load(out / "translated.nii.gz").shape == (30, 26, 1)


class TestOtherCommands:
    def test_version_and_info(self, process: Process, tmp_path: Path) -> None:
        done = process("info", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        for text in ("plasticine", "torch", "cpu", "reference", "works"):
            assert text in done.stdout
        assert not list(tmp_path.iterdir())

    def test_info_as_json(self, run: Run) -> None:
        code, out, err = run("info", "--json")
        assert (code, err) == (0, "")
        assert json.loads(out) == plasticine.info()

    def test_help(self, run: Run) -> None:
        code, out, _ = run("--help")
        assert code == 0
        for command in ("info", "demo", "train", "translate"):
            assert command in out
        code, out, _ = run("translate", "--help")
        assert code == 0
        for name in ("NIfTI", "Analyze", "FreeSurfer", "MetaImage", "NRRD", ".npy", "DICOM"):
            assert name in out

    def test_demo(self, process: Process, tmp_path: Path) -> None:
        pytest.importorskip("nilearn")
        if "brain-t1-t2" not in Translator.shipped():
            pytest.skip("this build ships no weights")
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "sitecustomize.py").write_text(NO_NETWORK)
        path = os.pathsep.join(
            [str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        done = process("demo", "--steps", "2", folder=tmp_path, PYTHONPATH=path)
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
