"""Training steps of a small registration network, by one process or as one of several.

As a script, in every process that ``torch.distributed.run`` starts, with the name of a folder: each
takes its part of the batch and writes what it ends with to FOLDER/LAYERS-RANK.pt.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from plasticine import compat
from plasticine import nn as ours

BATCH = 4
#: Whose layers and losses a network has: of this package, or MONAI's that are patched to be it.
LAYERS = ("plasticine", "monai")
_LOSSES = (
    "LocalNormalizedCrossCorrelationLoss",
    "GlobalMutualInformationLoss",
    "BendingEnergyLoss",
    "DiffusionLoss",
)


class Registration(nn.Module):
    """A convolution that finds a velocity, what integrates it and what warps by it."""

    def __init__(self, layers: str) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(2, 3, 3, padding=1)
        if layers == "monai":
            from monai.networks.blocks import DVF2DDF, Warp

            assert (Warp, DVF2DDF) == (compat.monai.Warp, compat.monai.DVF2DDF)
            self.integrate, self.warp = DVF2DDF(), Warp()
        else:
            self.integrate, self.warp = ours.Exponential(), ours.Warp()

    def forward(self, moving: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
        velocity = 8 * self.convolution(torch.cat([moving, fixed], 1))
        return self.warp(moving, self.integrate(velocity)), velocity


def train(layers: str, samples: slice, wrap: Callable[[nn.Module], nn.Module]) -> dict[str, Tensor]:
    """Two steps: the parameters, the gradients of the last and its loss.

    Args:
        layers: one of ``LAYERS``.
        samples: of the batch.
        wrap: the network, as it is trained.
    """
    torch.manual_seed(0)
    images = torch.rand(2, BATCH, 1, 8, 9, 10)
    moving, fixed = nn.functional.avg_pool3d(images.flatten(0, 1), 3, 1, 1).unflatten(0, (2, BATCH))
    with compat.patched("monai") if layers == "monai" else contextlib.nullcontext():
        module = ours
        if layers == "monai":
            from monai import losses as module
        losses = [getattr(module, name)() for name in _LOSSES]
        network = Registration(layers)
        model = wrap(network)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
        for _ in range(2):
            warped, velocity = model(moving[samples], fixed[samples])
            similar, informed, *smooth = losses
            loss = similar(warped, fixed[samples]) + informed(warped, fixed[samples])
            loss = loss + sum(0.1 * energy(velocity) for energy in smooth)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    found = {"loss": loss.detach()}
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        found |= {name: parameter.detach(), f"{name}.grad": parameter.grad}
    return found


def _main(folder: str) -> None:
    from torch.distributed import destroy_process_group, init_process_group
    from torch.nn.parallel import DistributedDataParallel

    warnings.simplefilter("ignore")
    init_process_group("gloo")
    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    part = BATCH // processes
    samples = slice(rank * part, (rank + 1) * part)
    for layers in LAYERS:
        if importlib.util.find_spec(layers) is not None:
            found = train(layers, samples, DistributedDataParallel)
            torch.save(found, Path(folder) / f"{layers}-{rank}.pt")
    destroy_process_group()


if __name__ == "__main__":
    _main(*sys.argv[1:])
