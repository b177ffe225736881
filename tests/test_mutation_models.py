"""Damaged model files, checkpoints, logs, recipes, archives and result folders.

Each is read, or refused by the exceptions that its reader documents, with the file's name.
"""

from __future__ import annotations

import json
import math
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from mutations import Damage, Misfit, damages, misfits, read_or_refuse
from recipe_file import as_toml, linear_stage, small_recipe
from search_profiles import more_examples

from plasticine.io import read_volume, translate_volume
from plasticine.report import evaluate, read_results, write_results
from plasticine.training import load_recipe
from plasticine.training.log import StageLog
from plasticine.training.reading import load_domains
from plasticine.training.recipe import shipped_recipes
from plasticine.training.stage import Stage
from plasticine.translation import ModelError, Translator, load_model

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


# Model files


@more_examples
@given(damage=damages)
def test_a_damaged_model(tmp_path: Path, model_file: Path, damage: Damage) -> None:
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(damage(model_file.read_bytes()))
    assert_model_is_sound(path)


@more_examples
@given(misfit=misfits)
def test_a_model_of_other_metadata(tmp_path: Path, model_file: Path, misfit: Misfit) -> None:
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(with_other_metadata(model_file.read_bytes(), misfit))
    assert_model_is_sound(path)


def assert_model_is_sound(path: Path) -> None:
    found = read_or_refuse(lambda: load_model(path), path, (ModelError,))
    if found is not None:
        model, card = found
        assert isinstance(card, dict)
        assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


def with_other_metadata(data: bytes, misfit: Misfit) -> bytes:
    """A safetensors file whose metadata, JSON in JSON, is changed in one place."""
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    metadata = {key: json.loads(value) for key, value in header["__metadata__"].items()}
    changed = misfit(metadata)
    header["__metadata__"] = (
        {str(key): json.dumps(value) for key, value in changed.items()}
        if isinstance(changed, dict)
        else changed
    )
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


# What a training leaves behind and goes on from


def stage(folder: Path) -> Stage:
    """One of which no step is taken."""
    return linear_stage(folder, lambda network, draws: pytest.fail("a step"), seed=3)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Of a stage that has taken a step."""
    trained = stage(tmp_path_factory.mktemp("stage"))
    trained.network(torch.ones(2, 3)).sum().backward()
    trained.optimizer.step()
    trained.step = 2
    trained.save()
    return trained.checkpoint.read_bytes()


@more_examples
@given(damage=damages)
def test_a_damaged_checkpoint(tmp_path: Path, checkpoint: bytes, damage: Damage) -> None:
    assert_checkpoint_is_sound(tmp_path, damage(checkpoint))


@more_examples
@given(misfit=misfits)
def test_a_checkpoint_of_other_metadata(tmp_path: Path, checkpoint: bytes, misfit: Misfit) -> None:
    assert_checkpoint_is_sound(tmp_path, with_other_metadata(checkpoint, misfit))


def assert_checkpoint_is_sound(folder: Path, data: bytes) -> None:
    resumed = stage(folder)
    resumed.checkpoint.write_bytes(data)
    read_or_refuse(lambda: resumed.load() or resumed, resumed.checkpoint, (ValueError, OSError))
    assert isinstance(resumed.step, int)
    assert resumed.step >= 0


@more_examples
@given(damage=damages)
def test_a_damaged_log(tmp_path: Path, damage: Damage) -> None:
    path = tmp_path / "diffusion.csv"
    rows = ["step,loss,learning_rate,seconds", *(f"{n},0.5,0.001,{n}.25" for n in (1, 2, 3))]
    path.write_bytes(damage("\r\n".join([*rows, ""]).encode()))

    def go_on() -> StageLog:
        log = StageLog(tmp_path, "diffusion", 2)
        log.close()
        return log

    log = read_or_refuse(go_on, path, (ValueError, OSError))
    assert log is None or math.isfinite(log.seconds)


# Recipes, and the images that they name


@more_examples
@given(damage=damages)
def test_a_damaged_recipe(tmp_path: Path, damage: Damage) -> None:
    whole = shipped_recipes()["brain-t1-t2"].read_bytes()
    assert_recipe_is_sound(tmp_path, damage(whole))


@more_examples
@given(misfit=misfits)
def test_a_recipe_of_other_values(tmp_path: Path, misfit: Misfit) -> None:
    whole = tomllib.loads(shipped_recipes()["brain-t1-t2"].read_text(encoding="utf-8"))
    assert_recipe_is_sound(tmp_path, as_toml(misfit(whole)).encode())


def assert_recipe_is_sound(folder: Path, data: bytes) -> None:
    path = folder / "damaged.toml"
    path.write_bytes(data)
    recipe = read_or_refuse(lambda: load_recipe(path), path, (ValueError, TypeError, OSError))
    if recipe is not None:  # names a file of the output folder
        assert isinstance(recipe.name, str)
        assert Path(recipe.name).name == recipe.name not in ("", ".", "..")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An .npz file of a recipe's images."""
    path = tmp_path_factory.mktemp("archive") / "whole.npz"
    images = np.random.default_rng(0).integers(20, 255, (2, 3, 8, 6)).astype(np.uint8)
    np.savez_compressed(path, source=images[0], target=images[1], people=np.array(["a", "b", "c"]))
    return path.read_bytes()


@more_examples
@given(damage=damages)
def test_a_damaged_archive(tmp_path: Path, archive: bytes, damage: Damage) -> None:
    path = tmp_path / "damaged.npz"
    path.write_bytes(damage(archive))
    data = {"file": path.name, "source_patients": ["people"], "target_subjects": ["d"]}
    recipe = small_recipe(data=data | {"source": ["source"], "target": ["target"], "maximum": 255})
    found = read_or_refuse(lambda: load_domains(recipe, tmp_path, 0), path)
    if found is not None:
        assert found.source.isfinite().all()
        assert found.target.isfinite().all()


# The folder of a translation


@pytest.fixture(scope="module")
def translation(tmp_path_factory: pytest.TempPathFactory, model_file: Path) -> Path:
    """The folder of a small result."""
    folder = tmp_path_factory.mktemp("whole")
    source = folder / "slices.npy"
    np.save(source, np.random.default_rng(0).random((2, 16, 12), dtype=np.float32))
    write_results(translate_volume(Translator.load(model_file), read_volume(source)), folder)
    source.unlink()
    return folder


@more_examples
@given(damage=damages)
def test_a_folder_with_a_damaged_record(tmp_path: Path, translation: Path, damage: Damage) -> None:
    assert_folder_is_sound(tmp_path, translation, "trace.json", damage)


@more_examples
@given(misfit=misfits)
def test_a_folder_whose_record_says_otherwise(
    tmp_path: Path, translation: Path, misfit: Misfit
) -> None:
    def change(data: bytes) -> bytes:
        return json.dumps(misfit(json.loads(data))).encode()

    assert_folder_is_sound(tmp_path, translation, "trace.json", change)


@pytest.mark.parametrize("name", ["displacement.nii.gz", "translated.nii.gz", "warped.nii.gz"])
@given(damage=damages)
def test_a_folder_with_a_damaged_image(
    tmp_path: Path, translation: Path, name: str, damage: Damage
) -> None:
    assert_folder_is_sound(tmp_path, translation, name, damage)


def assert_folder_is_sound(
    folder: Path, whole: Path, name: str, change: Callable[[bytes], bytes]
) -> None:
    folder = shutil.copytree(whole, folder / "translation", dirs_exist_ok=True)
    (folder / name).write_bytes(change((whole / name).read_bytes()))
    results = read_or_refuse(lambda: read_results(folder), folder, (ValueError, OSError, TypeError))
    if results is None:
        return
    for images in (results.translated, results.warped, results.displacement):
        assert images.isfinite().all()
    # What can be read can be measured.
    read_or_refuse(lambda: evaluate(folder), folder, (ValueError, OSError))
