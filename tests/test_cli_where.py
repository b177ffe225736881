"""``plasticine where`` and ``models``: a point through a result, both ways."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from command_line import Run

from plasticine.io import read_displacement


def test_a_point_of_a_translation(run: Run, head: Path, model_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("translate", head, "-m", model_file, "-o", out, "--steps", "1", "-q")[0] == 0
    code, printed, err = run("where", out, "12", "14", "1", "--json")
    assert (code, err) == (0, "")
    found = json.loads(printed)
    field, affine = read_displacement(out / "displacement.nii.gz")
    source = np.array([12, 14, 1]) + field[:, 12, 14, 1]
    there = found["result_to_source"]
    np.testing.assert_allclose(there["to"]["voxel"], source, atol=1e-4)
    np.testing.assert_allclose(there["to"]["mm"], (affine @ [*source, 1])[:3], atol=1e-3)
    jacobian = np.asarray(nibabel.load(out / "jacobian.nii.gz").dataobj)
    warped = np.asarray(nibabel.load(out / "warped.nii.gz").dataobj)
    assert there["jacobian"] == pytest.approx(float(jacobian[12, 14, 1]), abs=1e-5)
    assert there["source_intensity"] == pytest.approx(float(warped[12, 14, 1]), abs=1e-2)
    # What came from there goes back: the point of the source that φ found.
    millimetres = map(str, there["to"]["mm"])
    code, printed, _ = run("where", out, "--mm", "--json", "--", *millimetres)
    assert code == 0
    back = json.loads(printed)["source_to_result"]
    np.testing.assert_allclose(back["to"]["voxel"], [12, 14, 1], atol=0.05)
    code, printed, _ = run("where", out, "12", "14", "1")
    assert code == 0
    assert "came from / went to" in printed
    code, _, err = run("where", out, "24.6", "0", "0")
    assert code == 1
    assert "expected a point within 0 … 23, 27, 2 voxels; got 24.6, 0, 0" in err
    code, _, err = run("where", tmp_path, "1", "1", "1")
    assert code == 1
    assert "expected the folder of a translation or a registration" in err


def test_a_point_of_a_registration(run: Run, head: Path, tmp_path: Path) -> None:
    image, moved = nibabel.load(head), tmp_path / "moved.nii.gz"
    shift = np.array(image.affine)
    shift[:3, 3] += (6, -4, 0)
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), shift), moved)
    out = tmp_path / "out"
    assert run("register", moved, head, "-o", out, "--transform", "rigid", "-q")[0] == 0
    code, printed, _ = run("where", out, "10", "12", "1", "--json")
    assert code == 0
    found = json.loads(printed)
    voxel = found["result_to_source"]["to"]["voxel"]
    np.testing.assert_allclose(voxel, [10, 12, 1], atol=0.3)  # the headers differ, not the voxels
    np.testing.assert_allclose(
        found["result_to_source"]["to"]["mm"], (shift @ [*voxel, 1])[:3], atol=1e-2
    )
    assert "result_intensity" not in found["result_to_source"]


def test_models(run: Run) -> None:
    code, printed, _ = run("models", "--json")
    assert code == 0
    listed = {(one["name"], one["kind"]): one for one in json.loads(printed)}
    assert "title" in listed["head-mr-ct", "recipe"]
    code, printed, _ = run("models")
    assert code == 0
    assert "Head, T1-weighted MR to CT" in printed
