"""The bound: a U-Net that learns from true pairs what nobody else is shown."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.translation.learning import Draw, autocast
from plasticine.diffusion import ImageUNet


class PairedLoss:
    """The mean squared error on pairs: its minimum is the mean of all targets that fit.

    Args:
        model: what is trained.
        draw: batches of source and target.
    """

    def __init__(self, model: ImageUNet, draw: Draw) -> None:
        self.model, self.draw = model, draw

    def __call__(self, generator: torch.Generator) -> Tensor:
        source, target = self.draw(generator)
        with autocast(source.device):
            predicted = self.model(source)
        return functional.mse_loss(predicted, target)
