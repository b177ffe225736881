"""A trained translator's networks, and the file that holds them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from plasticine import structure
from plasticine.diffusion.denoiser import Denoiser
from plasticine.diffusion.schedule import NoiseSchedule
from plasticine.nn.finite import check_all_finite
from plasticine.nn.modes import plain_modes
from plasticine.nn.tensor_file import load_tensors, save_tensors
from plasticine.registration.network import VelocityNetwork
from plasticine.translation.configuration import ModelCard, ModelConfiguration, StructureOptions

FORMAT = "plasticine-translation"
FORMAT_VERSION = 1


class ModelError(Exception):
    """A model file is missing, is not one of ours, or is of a version we cannot read."""


class TranslationModel(nn.Module):
    """The structure map, the denoiser and the velocity network of one source and target.

    Args:
        configuration: what the networks are, and the defaults of a translation; or the same as
            a recipe's ``model`` table holds it.

    Attributes:
        configuration: that.

    Raises:
        ValueError: a key is missing, not known or out of range, or the solver does not suit the
            schedule.
    """

    @plain_modes()  # the networks are float32 and on the CPU, whatever torch's defaults are
    def __init__(self, configuration: ModelConfiguration | Mapping[str, Any]) -> None:
        super().__init__()
        if not isinstance(configuration, ModelConfiguration):
            configuration = ModelConfiguration.read(configuration, "the model's configuration")
        self.configuration = configuration
        self.ndim = configuration.ndim
        self.structure = create_structure(configuration.structure, self.ndim)
        self.denoiser = Denoiser(
            self.ndim,
            self.structure.channels,
            NoiseSchedule(**configuration.schedule.model_dump()),
            **configuration.denoiser.model_dump(),
        )
        self.velocity = VelocityNetwork(self.ndim, **configuration.velocity.model_dump())
        if self.ndim == 2:
            # Convolutions are faster so, on the CPU and on the GPU.
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def create_structure(options: StructureOptions, ndim: int) -> structure.StructureMap:
    """The structure map that a table names, for images of ``ndim`` axes."""
    return structure.create(options.name, ndim, **options.model_dump(exclude={"name"}))


def save_model(path: Path, model: TranslationModel, card: Mapping[str, Any]) -> None:
    """Write a model and its card, atomically.

    Weights are float16; a tensor with one beyond float16's range stays float32.

    Args:
        path: the .safetensors file.
        model: the networks.
        card: what a user should know, as ``ModelCard`` has it; more of anything JSON holds.

    Raises:
        OSError: the folder cannot be written to.
        ValueError: a weight is NaN or infinite, or the card is not right.
    """
    check_all_finite(model.state_dict(), "the model")
    ModelCard.read(card, "the model's card")
    tensors = {name: _stored(tensor) for name, tensor in model.state_dict().items()}
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "configuration": model.configuration.model_dump(mode="json", exclude_none=True),
        "card": card,
    }
    save_tensors(path, tensors, metadata)


def _stored(tensor: Tensor) -> Tensor:
    half = tensor.half()
    return half if half.isfinite().all() else tensor.float()


def load_model(path: Path) -> tuple[TranslationModel, dict[str, Any]]:
    """Read a model and its card.

    Returns:
        The model, float32, in evaluation mode, on the CPU; and its card, whose ``ndim`` is the
        networks'.

    Raises:
        ModelError: the file is missing, not a model, of another format version, or damaged:
            its configuration or card are not right, its tensors are not the configuration's,
            or a weight is NaN or infinite in float32.
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
        configuration = ModelConfiguration.read(metadata.get("configuration"), "configuration")
        card = ModelCard.read(metadata.get("card"), "card")
        if card.ndim not in (None, configuration.ndim):
            raise ValueError(
                f"card: ndim: expected {configuration.ndim}, as the networks'; got {card.ndim}"
            )
        # Beyond float32's range float64 becomes infinite, so it is looked at as it will be.
        tensors = {
            name: tensor.float() if tensor.is_floating_point() else tensor
            for name, tensor in tensors.items()
        }
        check_all_finite(tensors, "the file")
        # The caller's draws go on as if nothing was built.
        with (
            torch.random.fork_rng(devices=()),
            _WeightLimit(sum(x.numel() for x in tensors.values())),
        ):
            model = TranslationModel(configuration)
        _check_tensors(model, tensors)
        model.load_state_dict(tensors)
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"{path} is a damaged model: {error}") from error
    return model.eval(), {**metadata["card"], "ndim": configuration.ndim}


class _WeightLimit(TorchFunctionMode):
    """Refuses networks of more weights than a file holds, before memory is taken for them."""

    def __init__(self, weights: int) -> None:
        super().__init__()
        self.weights = self.left = weights

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.empty:  # by which modules make their weights
            size = args[0] if isinstance(args[0], Sequence) else args
            self.left -= math.prod(size)
            if self.left < 0:
                raise ValueError(
                    f"the configuration's networks have more weights than the file's {self.weights}"
                )
        return func(*args, **kwargs or {})


def _check_tensors(model: TranslationModel, tensors: dict[str, Tensor]) -> None:
    """Refuses tensors that are not the model's.

    Raises:
        ValueError: a tensor is missing, not known, or of another shape or kind.
    """
    state = model.state_dict()
    for name in sorted(state.keys() | tensors.keys()):
        if name not in tensors or name not in state:
            raise ValueError(f"tensor {name} is {'missing' if name in state else 'not known'}")
        wanted, found = tuple(state[name].shape), tuple(tensors[name].shape)
        if wanted != found or not tensors[name].is_floating_point():
            raise ValueError(
                f"tensor {name}: expected floating-point numbers of shape {wanted}, as the "
                f"configuration has it; got {tensors[name].dtype} of {found}"
            )


def shipped_models() -> dict[str, Path]:
    """Name and file of each model that comes with the package."""
    folder = Path(__file__).parent.parent / "weights"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}
