"""Names of files that are not UTF-8, or look like markup, mathematics or a picture's code."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import Process

from plasticine.io import read_volume, translate_volume
from plasticine.report import RESULT_FILES, print_results, write_results
from plasticine.report.record import printable
from plasticine.translation import Translator

FOLDER = b"b\xfcro :smile: $x_1$ \xff["
NAME = b"red] sc\xe4n $a_b^$.npy"
SHOWN_FOLDER = r"b\xfcro :smile: $x_1$ \xff["
SHOWN_NAME = r"red] sc\xe4n $a_b^$.npy"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names of bytes are of Linux")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A picture whose name, and whose folder's, is not UTF-8."""
    folder = tmp_path / os.fsdecode(FOLDER)
    folder.mkdir()
    path = folder / os.fsdecode(NAME)
    np.save(path, (np.indices((1, 26, 22)).sum(0) * 5).astype(np.uint8))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_translation_and_its_evaluation(
    process: Process, source: Path, model_file: Path, tmp_path: Path, encoding: str
) -> None:
    out = source.parent / os.fsdecode(b"r\xe9sultats")
    done = process(
        *("translate", source, "--model", model_file, "--output", out, "--steps", "1"),
        folder=tmp_path,
        PYTHONIOENCODING=encoding,
        COLUMNS="300",
        PYTHONWARNINGS="error",  # no mode of Python's changes what is done either
        PYTHONOPTIMIZE="1",
    )
    assert (done.returncode, done.stderr) == (0, "")
    # Markup and codes of pictures are shown as they were typed.
    for text in (":smile: $x_1$", "[/red] sc", "$a_b^$.npy"):
        assert text in done.stdout
    assert {path.name for path in out.iterdir()} == set(RESULT_FILES)
    record = json.loads((out / "trace.json").read_text(encoding="utf-8"))
    assert record["input"]["file"] == f"{tmp_path}/{SHOWN_FOLDER}/{SHOWN_NAME}"

    done = process("evaluate", out, "--truth", source, folder=tmp_path, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, "")
    shown = rf"Figures: {tmp_path}/{SHOWN_FOLDER}/r\xe9sultats/evaluation.json"
    assert shown in done.stdout
    record = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    assert record["translation"] == f"{tmp_path}/{SHOWN_FOLDER}/r\\xe9sultats"
    assert record["compared_with"]["truth"] == f"{tmp_path}/{SHOWN_FOLDER}/{SHOWN_NAME}"
    with (out / "evaluation.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.reader(file))) > 5


def test_an_error_names_the_file(
    process: Process, source: Path, model_file: Path, tmp_path: Path
) -> None:
    source.write_bytes(b"nothing")
    done = process("translate", source, "--model", model_file, "--output", "out", folder=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"error: {tmp_path}/{SHOWN_FOLDER}/{SHOWN_NAME}: " in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_model_whose_card_holds_half_a_character(
    source: Path, model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    translator = Translator.load(model_file)
    translator.card |= {"name": "half \ud83d", "title": "[/] :smile:"}
    result = translate_volume(translator, read_volume(source), steps=1)
    record = write_results(result, tmp_path)
    assert record["model"]["name"] == r"half \ud83d"
    assert json.loads((tmp_path / "trace.json").read_text(encoding="utf-8")) == record
    print_results(result, tmp_path, 1.0, RESULT_FILES)
    assert "[/] :smile:" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd", "a.nhdr"])
@pytest.mark.parametrize("of", ["file", "folder"])
def test_what_simpleitk_cannot_open_is_refused(tmp_path: Path, name: str, of: str) -> None:
    """SimpleITK would end the process with std::logic_error."""
    sitk = pytest.importorskip("SimpleITK")
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((4, 5, 6), np.int16)), str(tmp_path / name))
    folder = tmp_path / os.fsdecode(b"b\xfcro") if of == "folder" else tmp_path
    folder.mkdir(exist_ok=True)
    path = folder / (name if of == "folder" else os.fsdecode(b"sc\xe4n") + name)
    (tmp_path / name).rename(path)
    with pytest.raises(ValueError, match=r"SimpleITK opens only names in UTF-8") as caught:
        read_volume(path)
    assert str(caught.value).startswith(f"{path}: SimpleITK")


@pytest.mark.parametrize("of", ["file", "folder"])
def test_dicom_that_simpleitk_cannot_open_is_refused(tmp_path: Path, of: str) -> None:
    sitk = pytest.importorskip("SimpleITK")
    folder = tmp_path / os.fsdecode(b"b\xfcro" if of == "folder" else b"buero")
    folder.mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((1, 5, 6), np.int16)), str(tmp_path / "a.dcm"))
    name = "a.dcm" if of == "folder" else os.fsdecode(b"sc\xe4n.dcm")
    (tmp_path / "a.dcm").rename(folder / name)
    with pytest.raises(ValueError, match=r"SimpleITK opens only names in UTF-8") as caught:
        read_volume(folder)
    assert str(caught.value).startswith(f"{folder}: SimpleITK")


def test_printable() -> None:
    assert printable(Path(os.fsdecode(NAME))) == SHOWN_NAME
    assert printable("Größe ŷ 漢 🧠") == "Größe ŷ 漢 🧠"
