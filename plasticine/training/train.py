"""Training a translation model from a recipe: first the denoiser, then the registration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from plasticine.training.data import RandomDeformation, load_domains
from plasticine.training.losses import DenoisingLoss, RegistrationLoss
from plasticine.training.recipe import Recipe, load_recipe
from plasticine.training.stage import Progress, Stage
from plasticine.translation.model import TranslationModel, save_model


def train(
    recipe: str | Path | Recipe,
    data_folder: Path,
    output: Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    seed: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Train both stages of a recipe and write the model.

    Each stage keeps a checkpoint in ``output``; a run that was stopped goes on from it with
    ``resume=True`` and gives the same weights as one that was not.

    Args:
        recipe: a shipped recipe's name, a TOML file, or a recipe already read.
        data_folder: the folder that the recipe's data file is in.
        output: the folder for checkpoints and ``<name>.safetensors``.
        resume: go on from the checkpoints there are.
        device: of torch, as "cpu" or "cuda".
        seed: of the initial weights and of every random draw.
        progress: called as (stage, step, steps, values) after each optimisation step.

    Returns:
        The model's file.

    Raises:
        FileNotFoundError: the recipe or the data is not there.
        ValueError: the recipe, the data or a checkpoint is not right, or there are
            checkpoints in ``output`` and ``resume`` is false.
        OSError: ``output`` cannot be written to.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    output.mkdir(parents=True, exist_ok=True)
    kept = sorted(path.name for path in output.glob("*.checkpoint.safetensors"))
    if kept and not resume:
        raise ValueError(
            f"{output} holds {', '.join(kept)} of an earlier run: resume it, or give another folder"
        )
    domains = load_domains(recipe.data, data_folder, seed).to(device)
    torch.manual_seed(seed)
    model = TranslationModel(recipe.model).to(device)
    deformation = RandomDeformation(**recipe.augmentation)

    def run(name: str, network: torch.nn.Module, loss: Any, settings: dict[str, Any]) -> None:
        stage = Stage(name, network, loss, settings, output, seed)
        if stage.checkpoint.exists():
            stage.load()
        network.load_state_dict(stage.run(progress).state_dict())

    run(
        "diffusion",
        model.denoiser,
        DenoisingLoss(model, domains.target, deformation, recipe.diffusion),
        recipe.diffusion,
    )
    settings = dict(recipe.registration)
    small = RandomDeformation(**settings.pop("augmentation", recipe.augmentation))
    run(
        "registration",
        model.velocity,
        RegistrationLoss(model, domains, small, settings),
        settings,
    )
    path = output / f"{recipe.name}.safetensors"
    save_model(path, model.eval(), model_card(recipe, seed))
    return path


def model_card(recipe: Recipe, seed: int) -> dict[str, Any]:
    """What a user of the model should know, from the recipe."""
    data = {key: recipe.data[key] for key in ("file", "source", "target")}
    return {
        "name": recipe.name,
        **recipe.card,
        "data": data,
        "seed": seed,
        "training_steps": {
            "diffusion": recipe.diffusion["steps"],
            "registration": recipe.registration["steps"],
        },
    }
