"""A VoxelMorph training step by its parts: MONAI's own, and the same network over our operators.

    python -m benchmarks.training_step
    python -m benchmarks.training_step --size 64 --device cuda --output FILE

MONAI's VoxelMorph (its network of 3D convolutions, seven squarings, zeros outside) with a
similarity, LNCC in a box of 9 voxels or mutual information with Gaussian windows, and with bending
energy. Every part is timed by itself, forward and backward, MONAI's and ours in turn, and so are
both whole steps, Adam's included; the convolutions are the same for both. Seconds are the least of
the calls. Writes ``benchmarks/results/training_step.json``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor, nn

from benchmarks.translation.record import RESULTS, machine, versions, write
from plasticine.nn import (
    BendingEnergyLoss,
    Exponential,
    GlobalMutualInformationLoss,
    LocalNormalizedCrossCorrelationLoss,
    Warp,
)

Loss = Callable[[Tensor, Tensor], Tensor]


def parts_of(library: str) -> dict[str, Any]:
    """The layers and losses of "monai" or "plasticine", set to compute the same."""
    if library == "plasticine":
        return {
            "exponential": Exponential(padding="zeros"),
            "warp": Warp(padding="zeros"),
            "lncc": LocalNormalizedCrossCorrelationLoss(kernel_size=9),
            "mutual information": GlobalMutualInformationLoss(num_bins=32),
            "bending": BendingEnergyLoss(),
        }
    from monai import losses
    from monai.networks import blocks

    return {
        "exponential": blocks.DVF2DDF(mode="bilinear", padding_mode="zeros"),
        "warp": blocks.Warp(mode="bilinear", padding_mode="zeros"),
        "lncc": losses.LocalNormalizedCrossCorrelationLoss(kernel_size=9),
        "mutual information": losses.GlobalMutualInformationLoss(num_bins=32),
        "bending": losses.BendingEnergyLoss(),
    }


class Step:
    """A training step with the parts of one library, and each part alone.

    Args:
        network: MONAI's network, which both libraries share.
        parts: as :func:`parts_of` gives them.
        moving: ``(1, 1, *spatial)`` within [0, 1].
        fixed: like it.
    """

    def __init__(
        self, network: nn.Module, parts: dict[str, Any], moving: Tensor, fixed: Tensor
    ) -> None:
        self.network, self.parts, self.moving, self.fixed = network, parts, moving, fixed
        self.optimizer = torch.optim.Adam(network.parameters(), lr=1e-5)
        with torch.no_grad():
            self.velocity = network(torch.cat([moving, fixed], 1))
            self.displacement = parts["exponential"](self.velocity)
            self.warped = parts["warp"](moving, self.displacement)

    def whole(self, similarity: str) -> float:
        """One step of the optimiser; its loss."""
        velocity = self.network(torch.cat([self.moving, self.fixed], 1))
        displacement = self.parts["exponential"](velocity)
        warped = self.parts["warp"](self.moving, displacement)
        loss = self.parts[similarity](warped, self.fixed) + self.parts["bending"](displacement)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def alone(self, part: str) -> None:
        """A part, forward and backward."""
        if part == "convolutions":
            velocity = self.network(torch.cat([self.moving, self.fixed], 1))
            velocity.backward(torch.ones_like(velocity))
            self.optimizer.zero_grad()
            return
        function = self.parts[part]
        if part == "exponential":
            inputs = [self.velocity.clone().requires_grad_()]
        elif part == "warp":
            inputs = [self.moving, self.displacement.clone().requires_grad_()]
        elif part == "bending":
            inputs = [self.displacement.clone().requires_grad_()]
        else:
            inputs = [self.warped.clone().requires_grad_(), self.fixed]
        result = function(*inputs)
        result.backward(torch.ones_like(result))


def images(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Two smooth images of noise within [0, 1]; the second is the first, moved and recoloured."""
    generator = torch.Generator().manual_seed(0)
    nodes = torch.rand(1, 1, 16, 16, 16, generator=generator)
    image = F.interpolate(nodes, (size,) * 3, mode="trilinear")
    other = (1 - image.roll((2, 1, -1), (2, 3, 4))).square()
    return image.to(device), other.to(device)


def network_of(device: torch.device) -> nn.Module:
    """MONAI's, whose last layer begins with velocities of a voxel or two."""
    from monai.networks.nets import VoxelMorphUNet

    torch.manual_seed(0)
    network: nn.Module = VoxelMorphUNet(
        spatial_dims=3,
        in_channels=2,
        unet_out_channels=32,
        channels=(16, 32, 32, 32, 32, 32),
        final_conv_channels=(16, 16),
    )
    return network.to(device)


def measure(size: int, device: torch.device, rounds: int) -> dict[str, Any]:
    """Seconds of every part and of the whole steps, by library, and their losses."""
    moving, fixed = images(size, device)
    network = network_of(device)
    start = {k: v.clone() for k, v in network.state_dict().items()}
    steps = {
        library: Step(network, parts_of(library), moving, fixed)
        for library in ("monai", "plasticine")
    }
    similarities = ("lncc", "mutual information")
    parts = ("convolutions", "exponential", "warp", "bending", *similarities)
    works: dict[str, Callable[[Step], Any]] = {
        part: lambda step, part=part: step.alone(part) for part in parts
    }
    for similarity in similarities:
        works[f"step with {similarity}"] = lambda step, name=similarity: step.whole(name)
    found: dict[str, Any] = {library: {} for library in steps}
    losses: dict[str, Any] = {library: {} for library in steps}
    with Progress() as bar:
        task = bar.add_task("training step", total=len(works) * (rounds + 1) * len(steps))
        for name, work in works.items():
            for turn in range(rounds + 1):
                for library, step in steps.items():
                    network.load_state_dict(start)
                    seconds, result = timed(lambda: work(step), device)  # noqa: B023
                    if turn:  # the first is not like the others
                        kept = found[library].get(name, seconds)
                        found[library][name] = min(kept, seconds)
                    if result is not None:
                        losses[library][name] = result
                    bar.advance(task)
    return {"seconds": found, "losses": losses, "shares": shares(found, similarities)}


def timed(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Seconds of a call, and what it returns."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began, result


def shares(seconds: dict[str, dict[str, float]], similarities: tuple[str, ...]) -> dict[str, Any]:
    """Of the parts of a step in their sum, by library and similarity."""
    found: dict[str, Any] = {}
    for library, times in seconds.items():
        for similarity in similarities:
            names = ("convolutions", "exponential", "warp", "bending", similarity)
            total = sum(times[name] for name in names)
            found[f"{library}, {similarity}"] = {
                name: round(times[name] / total, 4) for name in names
            }
    return found


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128, help="voxels of an axis")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS / "training_step.json")
    options = parser.parse_args()
    device = torch.device(options.device)
    record = {"machine": machine(), "versions": versions(), "size": options.size}
    record |= measure(options.size, device, options.rounds)
    write(options.output, record)
    for name, before in record["seconds"]["monai"].items():
        after = record["seconds"]["plasticine"][name]
        print(f"{name:32s} {before:9.3f} s  {after:9.3f} s  {before / after:6.1f}x")


if __name__ == "__main__":
    main()
