"""Training a translation model from a recipe: first the denoiser, then the registration."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from plasticine.io.domain import describe_domain
from plasticine.nn.modes import plain_modes
from plasticine.nn.seed import TRAINING_BITS, seed_of
from plasticine.structure import BackTranslation
from plasticine.structure.interior import check_interior
from plasticine.training.data import Domains, check_size
from plasticine.training.losses import DenoisingLoss, RegistrationLoss, registration_guide
from plasticine.training.pairs import TransportedPairs, targets_of_each
from plasticine.training.processes import Processes
from plasticine.training.reading import Progress as ReadingProgress
from plasticine.training.reading import load_domains
from plasticine.training.recipe import Recipe, StageSettings, StructureSettings, load_recipe
from plasticine.training.stage import Loss, Progress, Stage, check_batch
from plasticine.training.structure import train_back_translation
from plasticine.translation.model import TranslationModel, save_model


@plain_modes()
@torch.enable_grad()
def train(
    recipe: str | Path | Recipe,
    data_folder: Path | None,
    output: Path,
    *,
    source: Path | None = None,
    target: Path | None = None,
    source_labels: Path | None = None,
    target_labels: Path | None = None,
    resume: bool = False,
    device: str = "cpu",
    seed: int = 0,
    tensorboard: bool = False,
    progress: Progress | None = None,
    reading: ReadingProgress | None = None,
) -> Path:
    """Train the stages of a recipe and write the model.

    Each stage keeps a checkpoint and a log, ``<stage>.csv``, in ``output``; a run that was
    stopped goes on from the checkpoint with ``resume=True`` and gives the same weights as one
    that was not.

    A structure map learned by back-translation is kept only where it agrees with what it began
    from, by the recipe's ``accept``; else the model has the base map, with a RuntimeWarning and a
    line in its card.

    Under ``torchrun`` each process takes its share of every batch; the losses are those of one
    process, up to rounding. The first alone writes and reports; every process must see the same
    ``output`` and data.

    Args:
        recipe: a shipped recipe's name, a TOML file, or a recipe already read.
        data_folder: the folder that the recipe's images are in; None with folders of one's own.
        output: the folder for checkpoints, logs and ``<name>.safetensors``.
        source: a folder of images that replace the recipe's source, with ``target``.
        target: a folder of images that replace the recipe's target.
        source_labels: the folder of their label maps, where the structure map is made of them or
            they teach the registration; which file is whose, ``load_domains`` says.
        target_labels: likewise.
        resume: go on from the checkpoints there are.
        device: of torch, as "cpu" or "cuda".
        seed: of the initial weights and of every random draw, 0 … 2^32 - 1.
        tensorboard: log to ``output/tensorboard``, too.
        progress: called as (stage, step, steps, values) after each optimisation step.
        reading: called as (what, files done, files in all) while files are read.

    Returns:
        The model's file.

    Raises:
        FileNotFoundError: the recipe or the data is not there.
        TypeError: the seed is not a whole number.
        ValueError: the recipe, the data, the seed or a checkpoint is not right, or there are
            checkpoints in ``output`` and ``resume`` is false.
        RuntimeError: a loss is not finite, or TensorBoard is asked for and not installed.
        OSError: ``output`` cannot be written to.
    """
    seed = seed_of(seed, TRAINING_BITS)
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    has_labels = recipe.data.source_labels is not None if source is None else bool(source_labels)
    _check_labels(recipe, has_labels)
    output.mkdir(parents=True, exist_ok=True)
    kept = sorted(path.name for path in output.glob("*.checkpoint.safetensors"))
    if kept and not resume:
        raise ValueError(
            f"{output} holds {', '.join(kept)} of an earlier run: resume it, or give another folder"
        )
    with Processes.joined(device) as processes:
        first = processes.rank == 0
        for name, settings in recipe.stages.items():
            check_batch(name, settings, processes)
        domains = load_domains(
            recipe,
            data_folder,
            seed,
            source=source,
            target=target,
            source_labels=source_labels,
            target_labels=target_labels,
            progress=reading if first else None,
        ).to(processes.device)
        torch.manual_seed(seed)
        model = TranslationModel(recipe.model).to(processes.device)
        _check_images(recipe, model, domains)
        deformation = recipe.augmentation

        def run(name: str, network: torch.nn.Module, loss: Loss, settings: StageSettings) -> None:
            stage = Stage(
                name, network, loss, settings, output, seed, processes, tensorboard=tensorboard
            )
            if stage.checkpoint.exists():
                stage.load()
            network.load_state_dict(stage.run(progress).state_dict())

        jitter, rejected, agreement = None, None, None
        if isinstance(model.structure, BackTranslation):
            assert recipe.structure is not None  # as checked
            agreement = train_back_translation(
                model.structure, domains, deformation, recipe.structure, run
            )
            rejected = _rejection(agreement, recipe.structure)
            if rejected is None:
                jitter = recipe.structure.jitter
            else:
                if first:
                    warnings.warn(rejected, RuntimeWarning, stacklevel=2)
                torch.manual_seed(seed)
                base = recipe.model.model_copy(update={"structure": recipe.structure.base})
                model = TranslationModel(base).to(processes.device)
        labels = domains.target_labels if model.structure.needs_labels else None
        run(
            "diffusion",
            model.denoiser,
            DenoisingLoss(model, domains.target, deformation, recipe.diffusion, labels, jitter),
            recipe.diffusion,
        )
        small = recipe.registration.augmentation or deformation
        run(
            "registration",
            model.velocity,
            RegistrationLoss(model, domains, small, recipe.registration),
            recipe.registration,
        )
        path = output / f"{recipe.name}.safetensors"
        if first:
            card = model_card(recipe, seed, own_images=source is not None)
            card["domain"] = describe_domain((domains.source + 1) / 2)
            if agreement is not None:
                card["back_translation_agreement"] = agreement
            if rejected is not None:
                card["structure"] = rejected
            save_model(path, model.eval(), card)
        processes.wait()
    return path


def _check_labels(recipe: Recipe, present: bool) -> None:
    """Refuses label maps that the training makes no use of, and their absence where it needs them.

    Raises:
        ValueError: it does.
    """
    if present and not recipe.needs_labels:
        raise ValueError(
            f"recipe {recipe.name}: its images have label maps, but neither the structure map nor "
            "the registration's labels make use of them"
        )
    if recipe.needs_labels and not present:
        raise ValueError(
            f"recipe {recipe.name}: the structure map or the registration needs the images' label "
            "maps; got none: name them in [data], or by --source-labels and --target-labels"
        )


def _check_images(recipe: Recipe, model: TranslationModel, domains: Domains) -> None:
    """Refuses images that a stage cannot take, before the first one is trained."""
    if recipe.diffusion.patch is not None:
        check_size("[diffusion] patch", recipe.diffusion.patch, domains.target)
    guide = registration_guide(model.structure, recipe.registration)
    for name, images, labels in (
        ("source", domains.source, domains.source_labels),
        ("target", domains.target, domains.target_labels),
    ):
        try:
            model.structure.check(images, labels=labels if model.structure.needs_labels else None)
            guide.check(images, labels=labels)
            if isinstance(model.structure, BackTranslation) and model.structure.interior:
                check_interior((images + 1) / 2, model.structure.interior)
        except ValueError as error:
            raise ValueError(f"the {name} does not suit the recipe: {error}") from error
    if recipe.registration.transport is None:
        targets_of_each(domains)
    else:
        TransportedPairs(domains, guide, recipe.registration.transport)


def _rejection(agreement: float, settings: StructureSettings) -> str | None:
    """Why a structure map learned by back-translation is not to be used; None if it may be."""
    if settings.accept is None or agreement >= settings.accept:  # NaN is not
        return None
    return (
        f"back-translation is rejected: h agrees with the network it began from by {agreement:.2f} "
        f"where {settings.accept:g} is asked for; the model has the structure map "
        f"{settings.base.name!r} instead"
    )


_OF_THE_DATA = ("title", "licence", "citation", "limitations")


def model_card(recipe: Recipe, seed: int, *, own_images: bool = False) -> dict[str, Any]:
    """What a user of the model should know, from the recipe.

    Args:
        recipe: the recipe.
        seed: of the run.
        own_images: the model was trained on a user's folders: what the recipe says of its own
            images does not hold.
    """
    card = recipe.card.model_dump(mode="json", exclude_none=True)
    data = {"source": "a user's folder", "target": "a user's folder"}
    if own_images:
        card = {key: value for key, value in card.items() if key not in _OF_THE_DATA}
        card["title"] = f"{recipe.name}, trained on a user's own images"
    else:
        named = {"file", "source", "target"}
        data = recipe.data.model_dump(mode="json", include=named, exclude_none=True)
    steps = {name: settings.steps for name, settings in recipe.stages.items()}
    if recipe.structure is not None:
        networks = 2 * recipe.structure.rounds
        steps["structure"] = recipe.structure.base_steps + networks * recipe.structure.steps
    return {
        "name": recipe.name,
        **card,
        "ndim": recipe.model.ndim,  # by which a translation lays out its input
        "data": data,
        "seed": seed,
        "training_steps": steps,
    }
