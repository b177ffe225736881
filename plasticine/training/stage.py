"""One stage of training: a resumable loop around a loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from plasticine.nn.tensor_file import load_tensors, save_tensors

Progress = Callable[[str, int, int, dict[str, float]], None]
"""Called as (stage, step, steps, values) after every optimisation step."""

_MOMENTS = ("exp_avg", "exp_avg_sq")


class Loss(Protocol):
    """What a stage minimises."""

    def __call__(self, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch drawn with ``generator``, and the terms to show."""


Tensors = tuple[Tensor, ...] | list[Tensor]


def ema_update(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """An exponential moving average whose decay grows with the first steps up to ``decay``."""

    def update(average: Tensors, current: Tensors, count: Tensor | int) -> None:
        seen = int(count)
        weight = 1 - min(decay, (1 + seen) / (10 + seen))
        torch._foreach_lerp_(average, current, weight)

    return update


class Stage:
    """Trains a network by AdamW with a warm-up and a cosine decay, keeping its average.

    Every step draws from a generator of its own, seeded with the run's seed and the step, so
    that a run resumed from a checkpoint goes on exactly as if it had not stopped.

    Args:
        name: "diffusion" or "registration"; also the checkpoint's name.
        network: what is trained, on its device.
        loss: gives the loss of a batch.
        settings: ``steps``, ``learning_rate``, ``warmup``, ``weight_decay``, ``ema``,
            ``gradient_norm`` (each batch's gradient is cut to it) and ``checkpoint_every``.
        folder: where the checkpoint is kept.
        seed: of the run.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        loss: Loss,
        settings: dict[str, Any],
        folder: Path,
        seed: int,
    ) -> None:
        self.name, self.network, self.loss, self.seed = name, network, loss, seed
        self.settings = settings
        self.steps = int(settings["steps"])
        self.checkpoint = folder / f"{name}.checkpoint.safetensors"
        self.average = AveragedModel(network, multi_avg_fn=ema_update(settings["ema"]))
        self.optimizer = torch.optim.AdamW(
            network.parameters(),
            lr=settings["learning_rate"],
            weight_decay=settings["weight_decay"],
        )
        self.step = 0

    def run(self, progress: Progress | None = None) -> nn.Module:
        """Train up to the last step, and give the averaged network."""
        self.network.train()
        while self.step < self.steps:
            values = self._advance()
            if progress is not None:
                progress(self.name, self.step, self.steps, values)
            if self.step % self.settings["checkpoint_every"] == 0 or self.step == self.steps:
                self.save()
        self.network.eval()
        return self.average.module

    def _advance(self) -> dict[str, float]:
        """One optimisation step."""
        generator = torch.Generator().manual_seed((self.seed << 32) + self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        loss, terms = self.loss(generator)
        if not torch.isfinite(loss):
            raise RuntimeError(
                f"{self.name}: the loss is {loss.item()} at step {self.step + 1}; the last "
                f"checkpoint is {self.checkpoint}"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.settings["gradient_norm"])
        self.optimizer.step()
        self.average.update_parameters(self.network)
        self.step += 1
        return {"loss": float(loss.detach())} | {name: float(term) for name, term in terms.items()}

    def _learning_rate(self) -> float:
        warmup = min(1.0, (self.step + 1) / max(1, self.settings["warmup"]))
        decay = 0.5 * (1 + math.cos(math.pi * self.step / self.steps))
        return self.settings["learning_rate"] * warmup * max(decay, 0.01)

    def save(self) -> None:
        """Write the checkpoint."""
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        average = self.average.module.state_dict()
        tensors |= {f"average.{name}": value.clone() for name, value in average.items()}
        tensors |= dict(self._moments())
        metadata = {"stage": self.name, "step": self.step, "seed": self.seed}
        save_tensors(self.checkpoint, tensors, metadata | {"settings": self.settings})

    def load(self) -> None:
        """Go on from the checkpoint.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is of another stage, seed, recipe or network.
        """
        tensors, metadata = load_tensors(self.checkpoint)
        expected = {"stage": self.name, "seed": self.seed, "settings": self.settings}
        for key, value in expected.items():
            if metadata.get(key) != value:
                raise ValueError(
                    f"{self.checkpoint} cannot be resumed: its {key} is {metadata.get(key)!r}, "
                    f"this run's is {value!r}"
                )
        try:
            self.network.load_state_dict(_below("network.", tensors))
            self.average.module.load_state_dict(_below("average.", tensors))
        except RuntimeError as error:
            raise ValueError(f"{self.checkpoint} is of another network: {error}") from error
        self.step = metadata["step"]
        self.average.n_averaged.fill_(self.step)
        if self.step:
            for index, parameter in enumerate(self.network.parameters()):
                state = {name: tensors[f"optimizer.{index}.{name}"] for name in _MOMENTS}
                state = {name: value.to(parameter.device) for name, value in state.items()}
                state["step"] = torch.tensor(float(self.step))
                self.optimizer.state[parameter] = state

    def _moments(self) -> Iterator[tuple[str, Tensor]]:
        for index, parameter in enumerate(self.network.parameters()):
            for name in _MOMENTS:
                state = self.optimizer.state.get(parameter)
                if state:
                    yield f"optimizer.{index}.{name}", state[name]


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name begins with ``prefix``, without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
