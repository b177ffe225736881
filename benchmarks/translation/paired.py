"""The bound: a U-Net that learns from true pairs what nobody else is shown."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.translation.learning import Draw, autocast
from plasticine.diffusion import UNet


class PairedUNet(nn.Module):
    """The network of the denoiser, from the source image straight to the target image.

    Args:
        network: ``channels``, ``blocks`` and ``patch_size`` of a ``UNet``.
    """

    def __init__(self, network: dict[str, Any]) -> None:
        super().__init__()
        self.network = UNet(2, 1, 1, **network)

    def forward(self, source: Tensor) -> Tensor:
        """(N, 1, *spatial) within [-1, 1] to float32 of the same shape, not clamped."""
        step = torch.zeros(len(source), dtype=torch.long, device=source.device)
        return self.network(source, step).float()


class PairedLoss:
    """The mean squared error on pairs: its minimum is the mean of all targets that fit.

    Args:
        model: what is trained.
        draw: batches of source and target.
    """

    def __init__(self, model: PairedUNet, draw: Draw) -> None:
        self.model, self.draw = model, draw

    def __call__(self, generator: torch.Generator) -> Tensor:
        source, target = self.draw(generator)
        with autocast(source.device):
            predicted = self.model(source)
        return functional.mse_loss(predicted, target)
