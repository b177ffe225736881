"""Small models with random weights, and images for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from plasticine.diffusion import Denoiser, NoiseSchedule
from plasticine.translation import TranslationModel, Translator

CONFIGURATION: dict[str, Any] = {
    "ndim": 2,
    "structure": {"name": "mind", "dilations": [1]},
    "schedule": {"kind": "cosine", "steps": 50},
    "denoiser": {"channels": [8, 8], "blocks": 1, "patch_size": 2},
    "velocity": {"channels": [4, 8, 8]},
    "sampling": {"steps": 2, "guidance": 1.0, "start": 1.0},
}
NORMALISATION = {"percentile": 99.9, "of": "positive"}


def images(*shape: int) -> Tensor:
    """Images of the given shape within [0, 1], the same every time."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(3))


def deforming(**changes: Any) -> TranslationModel:
    """An untrained model of CONFIGURATION whose deformation is not the identity."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = TranslationModel({**CONFIGURATION, **changes})
        with torch.no_grad():  # untrained heads are zero
            for parameter in model.velocity.velocity_head.parameters():
                parameter.normal_(0, 4)
    return model


def denoiser(kind: str = "cosine") -> Denoiser:
    """A 2D network of two channels of structure, whose schedule has 100 steps."""
    torch.manual_seed(0)
    network = Denoiser(2, 2, NoiseSchedule(kind, 100), channels=(8, 16), blocks=1)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return network.eval()


def untrained(
    ndim: int = 2,
    *,
    structure: dict[str, Any] | None = None,
    schedule: str = "cosine",
    schedule_steps: int = 1000,
    deviation: float = 0.05,
    still: bool = False,
    **sampling: Any,
) -> Translator:
    """A small translator with random weights, whose deformation is not the identity.

    ``deviation`` is that of the weights; ``still`` keeps the velocity zero.
    """
    flow = {"solver": "euler"} if schedule == "flow" else {}
    configuration = {
        "ndim": ndim,
        "structure": structure or {"name": "mind", "dilations": [1, 2]},
        "schedule": {"kind": schedule, "steps": schedule_steps},
        "denoiser": {"channels": [8, 8], "blocks": 1},
        "velocity": {"channels": [4, 4]},
        "sampling": {"steps": 3, "guidance": 1.0, "start": 1.0, **flow, **sampling},
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = TranslationModel(configuration)
        for name, parameter in model.named_parameters():
            if not (still and name.startswith("velocity")):
                torch.nn.init.normal_(parameter, std=deviation)
    card = {"name": "untrained", "ndim": ndim, "spacing_mm": 2.0, "orientation": "SPR"}
    return Translator(model, card)
