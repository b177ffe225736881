"""A trained translator's networks, and the file that holds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from plasticine import structure
from plasticine.diffusion.denoiser import Denoiser
from plasticine.diffusion.sampler import find_solver
from plasticine.diffusion.schedule import NoiseSchedule
from plasticine.nn.modes import plain_modes
from plasticine.nn.tensor_file import load_tensors, save_tensors
from plasticine.registration.network import VelocityNetwork

FORMAT = "plasticine-translation"
FORMAT_VERSION = 1


class ModelError(Exception):
    """A model file is missing, is not one of ours, or is of a version we cannot read."""


class TranslationModel(nn.Module):
    """The structure map, the denoiser and the velocity network of one source and target.

    Args:
        configuration: as a recipe's ``model`` table:
            ``ndim``; ``structure`` (``name`` and options); ``schedule`` (``kind``,
            ``steps``); ``denoiser`` and ``velocity`` (arguments of ``Denoiser`` and
            ``VelocityNetwork``); ``sampling`` (defaults of a translation: ``solver``,
            "ddim" where it is not given, ``steps``, ``guidance``, ``start`` as a fraction of
            the schedule, and, where they are wanted, ``slab``, ``overlap``, ``background`` and
            ``mirror`` as ``translation.sampling.Sampling`` has them). The schedule's kind "flow"
            makes the model a rectified flow.

    Attributes:
        solver: name of the default solver.

    Raises:
        ValueError: an option is out of range, or the solver does not suit the schedule.
    """

    @plain_modes()  # the networks are float32 and on the CPU, whatever torch's defaults are
    def __init__(self, configuration: dict[str, Any]) -> None:
        super().__init__()
        self.configuration = configuration
        self.ndim = int(configuration["ndim"])
        options = dict(configuration["structure"])
        self.structure = structure.create(options.pop("name"), self.ndim, **options)
        self.denoiser = Denoiser(
            self.ndim,
            self.structure.channels,
            NoiseSchedule(**configuration["schedule"]),
            **configuration["denoiser"],
        )
        # A file from before there was a choice says nothing, and means DDIM.
        self.solver: str = configuration["sampling"].get("solver", "ddim")
        find_solver(self.solver, self.denoiser.schedule)
        self.velocity = VelocityNetwork(self.ndim, **configuration["velocity"])
        if self.ndim == 2:
            # Convolutions are faster so, on the CPU and on the GPU.
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def save_model(path: Path, model: TranslationModel, card: dict[str, Any]) -> None:
    """Write a model with float16 weights and its card, atomically.

    Args:
        path: the .safetensors file.
        model: the networks.
        card: what a user should know: name, domains, spacing, orientation, normalisation,
            licence, citation, recipe, quality. Anything JSON holds.

    Raises:
        OSError: the folder cannot be written to.
    """
    tensors = {name: tensor.half() for name, tensor in model.state_dict().items()}
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "configuration": model.configuration,
        "card": card,
    }
    save_tensors(path, tensors, metadata)


def load_model(path: Path) -> tuple[TranslationModel, dict[str, Any]]:
    """Read a model and its card.

    Returns:
        The model, float32, in evaluation mode, on the CPU; and its card.

    Raises:
        ModelError: the file is missing, not a model, or of another format version.
    """
    try:
        tensors, metadata = load_tensors(path)
    except (FileNotFoundError, ValueError) as error:
        raise ModelError(f"cannot read a model: {error}") from error
    if metadata.get("format") != FORMAT:
        raise ModelError(
            f"{path} is a safetensors file but not a Plasticine model: expected the format "
            f"{FORMAT!r}, got {metadata.get('format')!r}"
        )
    if metadata.get("format_version") != FORMAT_VERSION:
        raise ModelError(
            f"{path} is a model of format version {metadata.get('format_version')!r}; this "
            f"Plasticine reads version {FORMAT_VERSION}"
        )
    try:
        with torch.random.fork_rng(devices=()):  # the caller's draws go on as if nothing was built
            model = TranslationModel(metadata["configuration"])
        model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        card = dict(metadata["card"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path} is a damaged model: {error}") from error
    return model.eval(), card


def shipped_models() -> dict[str, Path]:
    """Name and file of each model that comes with the package."""
    folder = Path(__file__).parent.parent / "weights"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}
