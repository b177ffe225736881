"""Small recipes, where their training stops, and recipes as files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from plasticine.training import load_recipe
from plasticine.training.draws import Draws
from plasticine.training.recipe import Recipe, StageSettings
from plasticine.training.stage import Stage

OWN_DATA: dict[str, Any] = {
    "file": "images.npz",
    "source": ["a"],
    "target": ["b"],
    "crop": None,
    "source_subjects": None,
    "target_subjects": None,
}
"""Images a and b in place of a shipped recipe's."""


def small_recipe(
    *,
    data: dict[str, Any] | None = None,
    structure: dict[str, Any] | None = None,
    stage: dict[str, Any] | None = None,
    diffusion: dict[str, Any] | None = None,
    registration: dict[str, Any] | None = None,
    **tables: Any,
) -> Recipe:
    """Networks so small that a step takes no time, on images a and b.

    Args:
        data: other entries of its table.
        structure: the model's map, MIND unless another is given.
        stage: entries of the tables of both stages.
        diffusion: entries of its table.
        registration: entries of its table.
        tables: other tables, with the ``structure`` of a training as ``stages``.
    """
    both = {"batch": 2, "precision": "float32", **(stage or {})}
    return load_recipe("brain-t1-t2").changed(
        data=OWN_DATA | (data or {}),
        model={
            "structure": structure or {"name": "mind", "dilations": [1]},
            "denoiser": {"channels": [8, 8], "blocks": 1, "patch_size": 2},
            "velocity": {"channels": [4, 4]},
        },
        augmentation={"translation": 1.0, "smoothness": 8},
        structure=tables.pop("stages", None),
        diffusion=both | (diffusion or {}),
        registration=both | {"nearest": 2} | (registration or {}),
        **tables,
    )


def linear_stage(
    folder: Path,
    loss: Callable[[torch.nn.Module, Draws], torch.Tensor],
    *,
    seed: int = 0,
    **settings: Any,
) -> Stage:
    """A stage of a training whose network has four weights."""
    torch.manual_seed(1)
    network = torch.nn.Linear(3, 1)
    common = {"steps": 4, "batch": 4, "checkpoint_every": 2, "precision": "float32", "ema": 0.9}
    rate = {"learning_rate": 0.1, "warmup": 1, "weight_decay": 0.0, "gradient_norm": 1.0}
    table = StageSettings(**common | rate | settings)
    return Stage("linear", network, lambda draws: (loss(network, draws), {}), table, folder, seed)


def stop_at(stage: str, step: int) -> Callable[..., None]:
    """A report of progress that interrupts the training at a step."""

    def stop(name: str, at: int, *rest: object) -> None:
        if (name, at) == (stage, step):
            raise KeyboardInterrupt

    return stop


def as_toml(content: dict[str, Any]) -> str:
    """A line for each key, tables within one line; what TOML lacks is text."""
    return "".join(f"{json.dumps(str(k))} = {_value(v)}\n" for k, v in content.items())


def _value(value: Any) -> str:
    if isinstance(value, dict):
        entries = (f"{json.dumps(str(key))} = {_value(item)}" for key, item in value.items())
        return "{ " + ", ".join(entries) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return '"none"' if value is None else json.dumps(value)


def write_recipe(recipe: Recipe, path: Path) -> Path:
    """The recipe as the file that a user would write."""
    path.write_text(as_toml(recipe.model_dump(mode="json", exclude_none=True)), encoding="utf-8")
    return path
