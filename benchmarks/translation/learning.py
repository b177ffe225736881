"""Training the peers: the same budget, random deformations and schedule for each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from plasticine.nn.tensor_file import load_tensors, save_tensors
from plasticine.training.data import RandomDeformation
from plasticine.training.draws import Draws
from plasticine.training.stage import ema_update

WARMUP = 0.02
"""Share of the budget over which the learning rate rises."""


@dataclass(frozen=True)
class Budget:
    """What every peer may spend on training.

    Attributes:
        minutes: of processor time a thread on a CPU, so that other work on the machine costs a
            peer nothing, and of the clock on a GPU.
        steps: of optimisation, in place of minutes; then the same seed gives the same weights.
    """

    minutes: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.minutes, self.steps) if value is not None]
        if len(given) != 1 or not given[0] > 0:
            raise ValueError(
                "a budget is a positive number of minutes or of steps; "
                f"got minutes={self.minutes}, steps={self.steps}"
            )

    def spent(self, step: int, seconds: float) -> float:
        """How much of it ``step`` steps in ``seconds`` seconds are, as a fraction."""
        if self.steps is not None:
            return step / self.steps
        assert self.minutes is not None
        return seconds / (60 * self.minutes)


class Learner(Protocol):
    """What is trained: its networks, and one step of their optimisation."""

    def step(self, generator: torch.Generator, rate: float) -> dict[str, float]:
        """Optimise once at ``rate`` times the learning rate; the losses."""

    def trained(self) -> nn.Module:
        """The networks as they are to be used."""


class SingleLoss:
    """A network trained by AdamW on one loss; its exponential average is used.

    Args:
        network: on its device.
        loss: gives the loss of a batch drawn with a generator.
        learning_rate: at its highest.
        ema: decay of the average, at its highest.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[torch.Generator], Tensor],
        learning_rate: float = 5e-4,
        ema: float = 0.998,
    ) -> None:
        self.network, self.loss, self.learning_rate = network, loss, learning_rate
        self.optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
        self.average = AveragedModel(network, multi_avg_fn=ema_update(ema))

    def step(self, generator: torch.Generator, rate: float) -> dict[str, float]:
        set_rate(self.optimizer, self.learning_rate * rate)
        loss = self.loss(generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.average.update_parameters(self.network)
        return {"loss": float(loss.detach())}

    def trained(self) -> nn.Module:
        return self.average.module


class Draw:
    """Batches of training images, each batch randomly deformed.

    Args:
        images: stacks of one length that belong together, (n, 1, *spatial): they are drawn and
            deformed by the same map.
        deformation: the random deformation.
        batch: images of a batch.
    """

    def __init__(
        self, images: tuple[Tensor, ...], deformation: RandomDeformation, batch: int
    ) -> None:
        self.images, self.deformation, self.batch = images, deformation, batch

    def __call__(self, generator: torch.Generator) -> list[Tensor]:
        index = torch.randint(len(self.images[0]), (self.batch,), generator=generator)
        chosen = [stack[index.to(stack.device)] for stack in self.images]
        return self.deformation(chosen, Draws(generator, self.batch))


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 where the device computes in it; a CPU that does not would only emulate it."""
    computes = device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=computes)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def train(
    name: str,
    learner: Learner,
    budget: Budget,
    path: Path,
    identity: dict[str, Any],
    seed: int,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train until the budget is spent and keep the weights, or take the kept ones.

    The learning rate rises over the first part of the budget and falls by half a cosine.

    Args:
        name: what the progress bar and errors call it.
        learner: what is trained; afterwards ``learner.trained()`` holds the weights.
        budget: what may be spent.
        path: the .safetensors file that keeps the weights.
        identity: all that the weights depend on, anything JSON holds.
        seed: of the draws.
        device: where the learner is; says which clock the minutes are of.

    Returns:
        What training took: steps, minutes, and the losses over its last tenth.

    Raises:
        ValueError: the file keeps weights of another identity.
        RuntimeError: a loss is not finite.
    """
    identity = identity | {"budget": asdict(budget), "seed": seed}
    if path.is_file():
        return _kept(learner, path, identity)
    history: list[dict[str, float]] = []
    seconds, spent = 0.0, 0.0
    with Progress() as bar:
        task = bar.add_task(f"training: {name}", total=1.0)
        began = _clock(device)
        while spent < 1:
            rate = min(1.0, (spent + 1e-3) / WARMUP) * 0.5 * (1 + math.cos(math.pi * spent))
            generator = torch.Generator().manual_seed((seed << 32) + len(history))
            losses = learner.step(generator, rate)
            if not all(math.isfinite(value) for value in losses.values()):
                raise RuntimeError(f"{name}: not finite at step {len(history) + 1}: {losses}")
            history.append(losses)
            seconds = _clock(device) - began
            spent = budget.spent(len(history), seconds)
            bar.update(task, completed=min(spent, 1.0))
    last = history[-max(1, len(history) // 10) :]
    training = {
        "steps": len(history),
        "minutes": seconds / 60,
        "losses": {key: sum(values[key] for values in last) / len(last) for key in last[0]},
    }
    network = learner.trained().eval()
    save_tensors(path, network.state_dict(), {"identity": identity, "training": training})
    return training


def _kept(learner: Learner, path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    tensors, metadata = load_tensors(path)
    if metadata.get("identity") != identity:
        raise ValueError(
            f"{path} was trained otherwise: take another folder. It is of "
            f"{metadata.get('identity')}, this run of {identity}"
        )
    network = learner.trained()
    network.load_state_dict(tensors)
    network.eval()
    return metadata["training"]


def _clock(device: str) -> float:
    """Seconds of processor time a thread, or of the clock where a GPU does the work."""
    if torch.device(device).type == "cpu":
        return time.process_time() / torch.get_num_threads()
    torch.cuda.synchronize()
    return time.perf_counter()
