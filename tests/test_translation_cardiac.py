"""The benchmark of two populations: what it reads, how it judges, and that it writes its record."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import checkout  # noqa: F401  puts the benchmarks on the path
import numpy as np
import pytest
import torch

from benchmarks.translation import cardiac
from benchmarks.translation.segmenter import largest_part
from plasticine.training import load_recipe
from plasticine.training.recipe import Recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """The recipe on rings of two populations, so small that it trains in a second."""
    arrays = {}
    rows, columns = np.mgrid[:24, :28]
    for population, radius in (("failing", 7.0), ("normal", 5.0)):
        distance = np.stack([np.hypot(rows - 12, columns - 12 - i % 3) for i in range(6)])
        inside = distance < radius
        ring = (distance >= radius) & (distance < radius + 3)
        arrays[population] = (40 + 160 * inside - 30 * ring).astype(np.uint8)
        arrays[f"{population}_lv_mask"] = inside
        arrays[f"{population}_patient"] = np.array([f"{population}-{i % 3}" for i in range(6)])
    np.savez(tmp_path / "hearts.npz", **arrays)
    stage = {"steps": 2, "batch": 2, "checkpoint_every": 2, "precision": "float32"}
    return load_recipe("cardiac-population").changed(
        data={"file": "hearts.npz", "held_out": ["failing-0", "normal-1"], "crop": [20, 24]},
        model={
            "denoiser": {"channels": [8, 8], "blocks": 1, "patch_size": 2},
            "velocity": {"channels": [4, 4]},
            "sampling": {"steps": 2, "guidance": 1.0, "start": 1.0},
        },
        diffusion=stage,
        registration=stage,
    )


def test_hearts_are_read_as_the_recipe_cuts_them(recipe: Recipe, tmp_path: Path) -> None:
    failing = cardiac.load_hearts(recipe, tmp_path, "failing")
    assert failing.images.shape == failing.ventricle.shape == (6, 1, 20, 24)
    assert failing.held_out.tolist() == [True, False, False] * 2
    assert failing.patient.tolist() == [0, 1, 2] * 2
    assert failing.images.max().item() == pytest.approx(200 / 255)
    assert torch.equal(failing.ventricle, failing.images > 0.5)
    assert len(failing.of(failing.held_out).images) == 2


def test_overlap_of_equal_shifted_and_missing_ventricles() -> None:
    carried = torch.zeros(3, 1, 10, 10, dtype=torch.bool)
    carried[:, :, 2:6, 2:6] = True
    found = carried.clone()
    found[1] = carried[1].roll(1, -1)
    found[2] = False
    patient = torch.tensor([4, 4, 7])
    figures = cardiac.overlap(carried, found, patient)
    assert figures["dice_mean"] == pytest.approx((1 + 0.75 + 0) / 3)
    assert figures["dice_median"] == 0.75
    assert figures["dice_least"] == 0
    assert figures["dice_patient_mean"] == pytest.approx((2 * (16 + 12) / 64 + 0) / 2)
    assert figures["dice_patient_least"] == 0
    assert figures["dice_of_all_pixels"] == pytest.approx(2 * (16 + 12) / (48 + 32))
    assert figures["hd95_pixels"] == pytest.approx(0.5)
    assert figures["images_without_a_ventricle"] == 1
    nothing = cardiac.overlap(carried, torch.zeros_like(carried), patient)
    assert nothing["dice_mean"] == 0
    assert nothing["hd95_pixels"] is None


def test_only_the_largest_part_is_kept() -> None:
    mask = np.zeros((6, 8), bool)
    mask[0, 0] = mask[2:5, 3:6] = True
    expected = mask.copy()
    expected[0, 0] = False
    assert np.array_equal(largest_part(mask), expected)
    assert not largest_part(np.zeros((3, 3), bool)).any()


def test_the_script_trains_judges_and_draws(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cardiac, "load_recipe", lambda name: recipe)
    output = tmp_path / "run"
    command = ["cardiac", "--output", str(output), "--data", str(tmp_path), "--steps", "10"]
    monkeypatch.setattr(sys, "argv", command)
    cardiac.main()
    figures = json.loads((output / "cardiac.json").read_text())["figures"]
    assert {"held out", "trained on", "all"} <= set(figures)
    assert [figures[name]["images"] for name in ("held out", "trained on", "all")] == [2, 4, 6]
    before = figures["all"]["distance_to_normal_areas"]["x, labelled"]
    areas = figures["all"]["mean_area"]["x, labelled"], figures["mean_area_of_normal"]
    assert before == pytest.approx(areas[0] - areas[1])  # every one of them is larger
    assert figures["all"]["folds"] == 0
    assert (output / "cardiac.png").stat().st_size > 0
    first = (output / "cardiac.json").read_text()
    cardiac.main()  # from the weights kept
    again = json.loads((output / "cardiac.json").read_text())["figures"]
    assert again == json.loads(first)["figures"]
    model = str(output / "cardiac-population.safetensors")
    other = ["--output", str(tmp_path / "other"), "--model", model, "--patients", "2"]
    monkeypatch.setattr(sys, "argv", [*command, *other])
    cardiac.main()
    record = json.loads((tmp_path / "other" / "cardiac.json").read_text())
    assert record["segmenter_taught_by"] == {"patients": 2, "images": 4}
    assert not list((tmp_path / "other").glob("cardiac-population*"))
