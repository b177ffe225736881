"""A VoxelMorph training step by its parts: MONAI's own, and MONAI patched by this package.

    python -m benchmarks.training_step
    python -m benchmarks.training_step --size 64 --device cuda --output FILE

MONAI's VoxelMorph (its network of 3D convolutions, seven squarings, zeros outside) with a
similarity, LNCC in a box of 9 voxels or mutual information with Gaussian windows, and with bending
energy; as it is, with ``plasticine.compat.patch("monai")``, and so with the network's channels last
in memory, too. Timed are every part by itself, forward and backward, the whole step, Adam's
included, and instance optimisation, which is the step without the network; the three in turn.
Seconds are the least of the calls; the peak memory of a step is that of one call which is not
timed. The convolutions are the same for all: they are timed in the ways that PyTorch offers to make
them faster. Writes ``benchmarks/results/training_step.json``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor, nn

from benchmarks.memory import peak_bytes
from benchmarks.translation.record import RESULTS, machine, versions, write
from plasticine import compat

SIMILARITIES = ("lncc", "mutual information")
PARTS = ("exponential", "warp", "bending", *SIMILARITIES)
OURS = ("plasticine", "plasticine, channels last")
WAYS = ("float32", "channels last", "compiled", "bfloat16", "bfloat16, channels last")


def monai_parts() -> dict[str, Any]:
    """MONAI's layers and losses, or what stands for them where it is patched."""
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
        network: MONAI's.
        parts: as :func:`monai_parts` gives them.
        moving: ``(1, 1, *spatial)`` within [0, 1].
        fixed: like it.
    """

    def __init__(
        self, network: nn.Module, parts: dict[str, Any], moving: Tensor, fixed: Tensor
    ) -> None:
        self.network, self.parts, self.moving, self.fixed = network, parts, moving, fixed
        self.start = {name: value.clone() for name, value in network.state_dict().items()}
        self.optimizer = torch.optim.Adam(network.parameters(), lr=1e-5)
        with torch.no_grad():
            self.velocity = network(torch.cat([moving, fixed], 1)).contiguous()
            self.displacement = parts["exponential"](self.velocity)
            self.warped = parts["warp"](moving, self.displacement)

    def train(self, similarity: str) -> float:
        """The first step of the network's optimiser; its loss."""
        self.network.load_state_dict(self.start)
        velocity = self.network(torch.cat([self.moving, self.fixed], 1))
        return self._descend(velocity, similarity, self.optimizer)

    def refine(self, similarity: str) -> float:
        """One step of instance optimisation, where the velocity itself is what is learned."""
        velocity = self.velocity.clone().requires_grad_()
        return self._descend(velocity, similarity, torch.optim.Adam([velocity], lr=1e-2))

    def _descend(
        self, velocity: Tensor, similarity: str, optimizer: torch.optim.Optimizer
    ) -> float:
        displacement = self.parts["exponential"](velocity)
        warped = self.parts["warp"](self.moving, displacement)
        loss = self.parts[similarity](warped, self.fixed) + self.parts["bending"](displacement)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    def alone(self, part: str) -> None:
        """A part, forward and backward."""
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


def network_of(device: torch.device, channels_last: bool = False) -> nn.Module:
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
    network = network.to(device)
    if channels_last:
        network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return network


class Convolutions:
    """The network alone, forward and backward, in one of the ways to compute it.

    Args:
        way: of ``WAYS``.
        pair: ``(1, 2, *spatial)``, both images.
    """

    def __init__(self, way: str, pair: Tensor) -> None:
        self.network, self.pair = network_of(pair.device, "channels last" in way), pair
        self.call = torch.compile(self.network) if way == "compiled" else self.network
        self.half = way.startswith("bfloat16")

    def __call__(self) -> Tensor:
        """The velocity that the network predicts, without gradient."""
        narrow = torch.autocast(self.pair.device.type, torch.bfloat16)
        with narrow if self.half else nullcontext():
            velocity: Tensor = self.call(self.pair)
        velocity.backward(torch.ones_like(velocity))
        self.network.zero_grad()
        return velocity.detach().float()


def measure(size: int, device: torch.device, rounds: int) -> dict[str, Any]:
    """Seconds of every part and of the whole steps, by library, their losses and peaks."""
    moving, fixed = images(size, device)
    steps = {"monai": Step(network_of(device), monai_parts(), moving, fixed)}
    with compat.patched("monai"):
        for library in OURS:
            network = network_of(device, "channels last" in library)
            steps[library] = Step(network, monai_parts(), moving, fixed)
    works: dict[str, Callable[[Step], Any]] = {}
    for part in PARTS:
        works[part] = lambda step, part=part: step.alone(part)
    for name in SIMILARITIES:
        works[f"instance optimisation with {name}"] = lambda step, name=name: step.refine(name)
        works[f"step with {name}"] = lambda step, name=name: step.train(name)
    found: dict[str, Any] = {library: {} for library in steps}
    losses: dict[str, Any] = {library: {} for library in steps}
    peaks: dict[str, Any] = {library: {} for library in steps}
    with Progress() as bar:
        total = len(works) * (rounds + 1) * len(steps) + len(WAYS)
        task = bar.add_task("training step", total=total)
        for name, work in works.items():
            for turn in range(rounds + 1):
                for library, step in steps.items():
                    seconds, result = timed(lambda: work(step), device)  # noqa: B023
                    if turn:  # the first is not like the others
                        kept = found[library].get(name, seconds)
                        found[library][name] = min(kept, seconds)
                    if result is not None:
                        losses[library][name] = result
                    bar.advance(task)
            if " with " in name:
                for library, step in steps.items():
                    peaks[library][name] = peak_bytes(lambda: work(step), device)  # noqa: B023
        pair = torch.cat([moving, fixed], 1)
        convolutions = convolution_ways(pair, rounds, lambda: bar.advance(task))
    for library, times in found.items():
        way = "channels last" if "channels last" in library else "float32"
        times["convolutions"] = convolutions[way]["seconds"]
    return {
        "seconds": found,
        "losses": losses,
        "peak bytes": peaks,
        "convolutions": convolutions,
        "shares": shares(found),
    }


def convolution_ways(
    pair: Tensor, rounds: int, advance: Callable[[], None]
) -> dict[str, dict[str, Any]]:
    """Seconds of the network in each way, its peak, and how far it is from plain float32."""
    found: dict[str, dict[str, Any]] = {}
    plain = None
    for way in WAYS:
        run = Convolutions(way, pair)
        calls = [timed(run, pair.device) for _ in range(rounds + 1)]
        velocity = calls[-1][1]
        plain = velocity if plain is None else plain
        found[way] = {
            "seconds": min(seconds for seconds, _ in calls[1:]),
            "largest difference, voxels": float((velocity - plain).abs().max()),
            "peak bytes": peak_bytes(run, pair.device),
        }
        advance()
    return found


def timed(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Seconds of a call, and what it returns."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began, result


def shares(seconds: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Of the parts of a step in their sum, by library and similarity."""
    found: dict[str, Any] = {}
    for library, times in seconds.items():
        for similarity in SIMILARITIES:
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
    print(f"{'':46s}" + "".join(f"{library:>28s}" for library in record["seconds"]))
    for name in record["seconds"]["monai"]:
        times = [record["seconds"][library][name] for library in record["seconds"]]
        print(f"{name:46s}" + "".join(f"{t:19.3f} s{times[0] / t:6.1f}x" for t in times))
    for name in record["peak bytes"]["monai"]:
        peaks = [record["peak bytes"][library][name] for library in record["seconds"]]
        print(f"{'peak, ' + name:46s}" + "".join(f"{peak / 2**20:24.0f} MiB" for peak in peaks))
    for way, found in record["convolutions"].items():
        print(f"convolutions, {way:30s} {found['seconds']:9.3f} s")


if __name__ == "__main__":
    main()
