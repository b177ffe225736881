"""What a recipe may hold, and what is said of one that holds something else."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from plasticine.diffusion import Denoiser, NoiseSchedule
from plasticine.registration.network import VelocityNetwork
from plasticine.structure import STRUCTURE_MAPS
from plasticine.training import load_recipe, shipped_recipes, train
from plasticine.training.recipe import Recipe
from plasticine.translation import configuration
from plasticine.translation.sampling import Sampling

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BASE = "brain-t1-t2"


def _content(name: str = BASE) -> dict[str, Any]:
    return tomllib.loads(shipped_recipes()[name].read_text(encoding="utf-8"))


def _with(path: str, value: Any) -> dict[str, Any]:
    """The shipped recipe with another value at a dotted path; ``...`` takes the key away."""
    content = _content()
    table = content
    *above, key = path.split(".")
    for name in above:
        table = table[name]
    if value is ...:
        del table[key]
    else:
        table[key] = value
    return content


# What was wrong, and what the error must say beside the file: where, what was expected, what got.
WRONG: dict[str, tuple[str, Any, str]] = {
    "missing key": ("registration.noise_steps", ..., r"\[registration\] noise_steps: missing"),
    "missing weights": ("registration.weights", ..., r"\[registration\] weights: missing"),
    "missing nested": ("model.sampling.steps", ..., r"\[model\] sampling\.steps: missing"),
    "missing table": ("diffusion", ..., "diffusion: missing"),
    "mistyped key": (
        "registration.acumulation",
        2,
        r"\[registration\] acumulation: unknown key, did you mean 'accumulation'\?",
    ),
    "mistyped data": ("data.sorce_flip", [0], r"\[data\] sorce_flip: .*'source_flip'"),
    "mistyped nested": ("model.velocity.poling", 2, r"velocity\.poling: .*'pooling'"),
    "mistyped option": ("structure.base.sigm", 2.0, r"\[structure\] base\.sigm: .*'sigma'"),
    "mistyped weight": ("registration.weights.afine", 1.0, r"weights\.afine: .*'affine'"),
    "mistyped jitter": ("structure.jitter.bluur", 1.0, r"jitter\.bluur: .*'blur'"),
    "mistyped own": ("registration.augmentation.mirorr", True, r"augmentation\.mirorr: .*'mirror'"),
    "mistyped card": ("card.spaceing_mm", 2.0, r"\[card\] spaceing_mm: .*'spacing_mm'"),
    "mistyped table": ("strukture", {}, r"\[strukture\]: unknown key, did you mean 'structure'"),
    "average": ("diffusion.ema", -1, r"\[diffusion\] ema: expected greater .* 0; got -1"),
    "average of 1": ("diffusion.ema", 1.0, r"ema: expected less than 1; got 1\.0"),
    "learning rate": ("structure.learning_rate", 0, r"\[structure\] learning_rate: .*than 0"),
    "no steps": ("registration.steps", 0, r"\[registration\] steps: expected .*equal to 1; got 0"),
    "no batch": ("diffusion.batch", 0, r"batch: expected greater than or equal to 1; got 0"),
    "decimal steps": ("diffusion.steps", 1e3, r"steps: expected a valid integer; got 1000\.0"),
    "true steps": ("diffusion.steps", True, r"steps: expected a valid integer; got True"),
    "true rate": ("diffusion.learning_rate", True, r"rate: expected a valid number; got True"),
    "text": ("diffusion.warmup", "50", r"warmup: expected a valid integer; got '50'"),
    "number for yes": ("augmentation.mirror", 1, r"\[augmentation\] mirror: .*boolean; got 1"),
    "not a number": ("augmentation.rotation", float("nan"), "rotation: expected a finite number"),
    "endless": ("registration.weights.affine", float("inf"), "affine: expected a finite number"),
    "negative weight": ("registration.weights.affine", -1, "weights: affine must be at least 0"),
    "precision": ("diffusion.precision", "half", "precision: expected 'float32', 'bfloat16' or"),
    "dropout": ("diffusion.condition_dropout", 1.5, "condition_dropout: expected less than or"),
    "shrinking": ("augmentation.scaling", 1.0, "scaling: expected less than 1"),
    "smoothness": ("augmentation.smoothness", 0, "smoothness: .*than or equal to 1"),
    "share": ("structure.jitter.remap", 2, r"jitter\.remap: expected less than or equal to 1"),
    "agreement": ("structure.accept", 40, "accept: expected less than or equal to 1"),
    "base": ("structure.base", {"name": "labels", "labels": 2}, "base: .*neither learned nor"),
    "base map": ("structure.base.name", "mnd", r"\] base\.name: expected 'mind', .*got 'mnd'"),
    "map": ("model.structure", {"name": "edges"}, r"\[model\] structure\.name: .*'contour'.*got"),
    "no map": ("model.structure", {}, r"\[model\] structure\.name: missing"),
    "map's option": (
        "model.structure",
        {"name": "kmeans", "clusters": 1},
        r"structure\.clusters: expected greater than or equal to 2; got 1",
    ),
    "ndim": ("model.ndim", 4, r"\[model\] ndim: expected 2 or 3; got 4"),
    "odd width": ("model.denoiser.channels", [5, 8], "channels: expected an even first width"),
    "no width": ("model.velocity.channels", [16, 0], r"velocity\.channels\.1: .*or equal to 1"),
    "labels": (
        "model.structure",
        {"name": "labels", "labels": [1], "lables": 2},
        r"structure\.lables: unknown key, did you mean 'labels'",
    ),
    "no labels": ("model.structure", {"name": "labels"}, r"\[model\] structure\.labels: missing"),
    "label": ("model.structure", {"name": "labels", "labels": [0.5]}, r"structure\.labels\.0: "),
    "one width": ("model.velocity.channels", [16], r"velocity\.channels: .*at least 2 values"),
    "schedule": ("model.schedule.kind", "cos", r"schedule\.kind: expected 'cosine', 'linear' or"),
    "solver": ("model.sampling.solver", "heun", "solver must be one of ddpm, ddim.*got 'heun'"),
    "slab": ("model.sampling.slab", 20, r"\[model\]: a slab's size must be a multiple of 16"),
    "start": ("model.sampling.start", 0, r"sampling\.start: expected greater than 0; got 0"),
    "orientation": ("card.orientation", "SPS", r"\[card\] orientation: .*axis codes.*'SPS'"),
    "spacing": ("card.spacing_mm", -2, r"\[card\] spacing_mm: expected greater than 0; got -2"),
    "axes": ("card.ndim", 3, r"\[card\] ndim: expected 2, as the model's; got 3"),
    "percentile": ("card.normalisation.percentile", 101, r"\[card\] normalisation\.percentile: "),
    "voxels": ("card.normalisation.of", "some", r"normalisation\.of: expected 'positive' or 'all'"),
    "window": ("card.target_normalisation", {"low": 3, "high": 3}, "low < high; got 3 and 3"),
    "half a window": ("card.target_normalisation", {"low": 3}, r"target_normalisation\.high: miss"),
    "crop": ("data.crop", [96, 80, 8], r"\[data\] crop: expected 2 numbers.*\[96, 80, 8\]"),
    "patch": ("diffusion.patch", [97, 80], r"patch: expected at most the images' \[96, 80\]"),
    "flip": ("data.source_flip", [2], r"\[data\] source_flip: expected axes below 2"),
    "slices": ("data.source_slices", [5, 5], r"source_slices: expected first < stop; got \[5, 5\]"),
    "three slices": ("data.source_slices", [1, 5, 2], r"source_slices: expected at most 2 values"),
    "body": ("data.target_body", {"threshold": 0.1, "opening": 2}, r"target_body\.margin: missing"),
    "white": ("data.maximum", ..., r"\[data\]: file needs maximum"),
    "one domain": ("data.target", ..., r"\[data\]: source and target are needed together"),
    "no names": ("data.source", [], r"\[data\] source: expected at least 1 value"),
    "a name": ("data.source", "T1_19", r"\[data\] source: expected a valid array; got 'T1_19'"),
    "subjects": ("data.source_subjects", ["19"], "source_subjects must name 2 arrays or files"),
    "noise": ("registration.noise_steps", 1001, "noise_steps: expected at most 1000.*got 1001"),
    "both pairings": ("registration.transport", 0.1, "takes one of nearest and transport"),
    "labels twice": ("registration.labels", [1, 1], r"labels: expected different values"),
    "table": ("registration", 3, "registration: expected an object; got 3"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_value_is_told_with_its_table_and_key(case: str) -> None:
    path, value, message = WRONG[case]
    with pytest.raises(ValueError, match=rf"^mine\.toml: .*{message}") as raised:
        Recipe.read(_with(path, value), "mine.toml")
    assert "\n" not in str(raised.value)
    assert "json" not in str(raised.value)


# They ended with a traceback, never, or after a stage had trained.
WHOLE = """
diffusion.batch diffusion.accumulation diffusion.steps structure.base_steps structure.rounds
registration.warmup registration.checkpoint_every registration.nearest augmentation.smoothness
model.sampling.steps model.sampling.slab data.crop
"""
REAL = """
registration.learning_rate diffusion.weight_decay diffusion.gradient_norm structure.jitter.blur
structure.jitter.offset structure.jitter.field structure.jitter.noise augmentation.displacement
augmentation.translation registration.weights.affine registration.weights.jitter
registration.weights.jacobian_threshold model.velocity.velocity_scale model.sampling.guidance
"""
TOO_LARGE: dict[str, float] = {
    **dict.fromkeys(WHOLE.split(), 10**30),
    **dict.fromkeys(REAL.split(), 1e300),
    "structure.batch": 65_537,
    "registration.batch": 10**20,
    "diffusion.learning_rate": 1001.0,
    "registration.augmentation.displacement": 1001.0,
    "registration.weights.bins": 10**9,
}


@pytest.mark.parametrize("path", TOO_LARGE)
def test_what_is_too_large_is_refused_before_anything_is_trained(path: str) -> None:
    value: Any = [96, TOO_LARGE[path]] if path == "data.crop" else TOO_LARGE[path]
    table, _, key = path.partition(".")
    message = rf"^mine\.toml: \[{table}\] {key}.*: expected less than or equal to .*; got "
    with pytest.raises(ValueError, match=message):
        Recipe.read(_with(path, value), "mine.toml")


def test_all_faults_are_told_at_once() -> None:
    content = _with("diffusion.ema", -1)
    content["card"]["tittle"] = "x"
    del content["registration"]["batch"]
    with pytest.raises(ValueError, match="ema") as raised:
        Recipe.read(content, "mine.toml")
    for part in ("[diffusion] ema", "[card] tittle", "[registration] batch: missing"):
        assert part in str(raised.value)


NO_NAMES = [
    "../../x", "a/b", "/x", "..", ".", "", " ", ".x", "x\\y", "x\0", "x\n", " x", "x" * 101,
    "diffusion.checkpoint",
]  # fmt: skip


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_name_is_one_part_of_a_path(name: str) -> None:
    with pytest.raises(ValueError, match=r"mine\.toml: name: expected a name that is one part"):
        Recipe.read(_with("name", name), "mine.toml")


def test_names_of_files_are_names() -> None:
    for name in ("brain t1→t2", "v1.0", "x" * 100):
        assert Recipe.read(_with("name", name), "mine.toml").name == name


@pytest.mark.parametrize("path", ["../x.npz", "/etc/x.npz", "a/../../x.npz", "x\0.npz"])
@pytest.mark.parametrize("key", ["file", "source", "target_labels"])
def test_data_lie_below_the_data_folder(key: str, path: str) -> None:
    content = _content("oct-vendor")
    content["data"][key] = path if key == "file" else [path, *content["data"][key][1:]]
    content["data"]["maximum"] = 255
    with pytest.raises(ValueError, match=r"\[data\].*expected a path below the data folder"):
        Recipe.read(content, "mine.toml")


def test_a_recipe_is_refused_before_anything_is_read_or_written(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    text = shipped_recipes()[BASE].read_text(encoding="utf-8")
    path.write_text(text.replace("noise_steps = 500\n", ""), encoding="utf-8")
    with pytest.raises(ValueError, match=r"mine\.toml: \[registration\] noise_steps: missing"):
        train(path, tmp_path / "nowhere", tmp_path / "run")
    path.write_text(text.replace(f'name = "{BASE}"', 'name = "../../x"'), encoding="utf-8")
    with pytest.raises(ValueError, match=r"mine\.toml: name: .*'\.\./\.\./x'"):
        train(path, tmp_path / "nowhere", tmp_path / "run")
    assert [file.name for file in tmp_path.iterdir()] == ["mine.toml"]


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 100_000,
        "a = " + "[" * 500 + "]" * 500,
        f"name = 'x'\n[diffusion]\nsteps = {'9' * 5000}",
        "name = 'x'\n[diffusion]\nsteps = 2020-01-01",
        "name = 3",
        "data = 1\nmodel = []",
    ],
)
def test_a_hostile_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(str(path))):
        load_recipe(path)


def test_a_changed_recipe_is_checked() -> None:
    recipe = load_recipe(BASE)
    changed = recipe.changed(diffusion={"steps": 7}, data={"crop": None}, name="other")
    assert (changed.diffusion.steps, changed.data.crop, changed.name) == (7, None, "other")
    assert changed.registration == recipe.registration
    assert changed.diffusion == recipe.diffusion.model_copy(update={"steps": 7})
    with pytest.raises(ValueError, match=r"recipe brain-t1-t2: \[diffusion\] stepps: unknown key"):
        recipe.changed(diffusion={"stepps": 7})


def test_a_recipe_for_folders_of_ones_own_names_no_images() -> None:
    content = _content()
    content["data"] = {"size": [96, 80]}
    with pytest.raises(ValueError, match="names no images of the source"):
        Recipe.read(content, "mine.toml").data.of("source")


def _defaults(arguments: type | Any) -> dict[str, Any]:
    parameters = inspect.signature(arguments).parameters.values()
    return {p.name: p.default for p in parameters}


def _fields(table: type[BaseModel]) -> dict[str, Any]:
    return {
        name: inspect.Parameter.empty if field.is_required() else field.default
        for name, field in table.model_fields.items()
    }


@pytest.mark.parametrize(
    ("table", "arguments", "others"),
    [
        (configuration.ScheduleOptions, NoiseSchedule, set()),
        (configuration.DenoiserOptions, Denoiser, {"ndim", "condition_channels", "schedule"}),
        (configuration.VelocityOptions, VelocityNetwork, {"ndim", "image_channels"}),
        *(
            (getattr(configuration, f"{kind.__name__}Options"), kind, {"ndim"})
            for kind in STRUCTURE_MAPS.values()
        ),
    ],
)
def test_the_definition_has_the_arguments_and_defaults_of_what_it_defines(
    table: type[BaseModel], arguments: type, others: set[str]
) -> None:
    expected = _defaults(arguments)
    found = _fields(table)
    found.pop("name", None)
    assert found == {name: value for name, value in expected.items() if name not in others}


def test_a_models_sampling_is_a_translations() -> None:
    known = {field.name for field in dataclasses.fields(Sampling)}
    assert set(configuration.SamplingDefaults.model_fields) <= known
