"""One stage of training: a resumable loop around a loss."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from plasticine.nn.finite import check_all_finite
from plasticine.nn.tensor_file import load_tensors, save_tensors
from plasticine.training.draws import Draws
from plasticine.training.log import StageLog
from plasticine.training.processes import Processes
from plasticine.training.recipe import StageSettings

Progress = Callable[[str, int, int, dict[str, float]], None]
"""Called as (stage, step, steps, values) after every optimisation step."""

_MOMENTS = ("exp_avg", "exp_avg_sq")


class Loss(Protocol):
    """What a stage minimises."""

    def __call__(self, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss of the samples that ``draws`` gives, and the terms to show.

        The mean of equal parts of a batch must be the batch's.
        """


Tensors = tuple[Tensor, ...] | list[Tensor]


def ema_update(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """An exponential moving average whose decay grows with the first steps up to ``decay``."""

    def update(average: Tensors, current: Tensors, count: Tensor | int) -> None:
        seen = int(count)
        weight = 1 - min(decay, (1 + seen) / (10 + seen))
        torch._foreach_lerp_(average, current, weight)

    return update


def check_batch(name: str, settings: StageSettings, processes: Processes) -> None:
    """Refuses a batch that cannot be divided evenly.

    Raises:
        ValueError: it cannot.
    """
    if settings.batch % (processes.count * settings.accumulation):
        raise ValueError(
            f"{name}: a batch of {settings.batch} cannot be divided evenly among "
            f"{processes.count} processes of {settings.accumulation} parts (accumulation) each"
        )


class Stage:
    """Trains a network by AdamW with a warm-up and a cosine decay, keeping its average.

    Every step draws from a generator of its own, seeded with the run's seed and the step, so
    that a run resumed from a checkpoint goes on exactly as if it had not stopped. A batch is
    divided evenly among the processes, and each one's share into ``accumulation`` parts whose
    gradients are summed up: the losses are those of the whole batch, up to rounding.

    Args:
        name: "diffusion" or "registration"; also the checkpoint's name.
        network: what is trained, on its device.
        loss: gives the loss of a batch.
        settings: how it is trained.
        folder: where the checkpoint and the log are kept.
        seed: of the run.
        processes: that train together.
        tensorboard: log to TensorBoard, too.

    Raises:
        ValueError: the batch cannot be divided evenly.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        loss: Loss,
        settings: StageSettings,
        folder: Path,
        seed: int,
        processes: Processes | None = None,
        *,
        tensorboard: bool = False,
    ) -> None:
        self.name, self.network, self.loss, self.seed = name, network, loss, seed
        self.settings = settings
        self.folder, self.tensorboard = folder, tensorboard
        self.processes = Processes() if processes is None else processes
        check_batch(name, settings, self.processes)
        device = next(network.parameters()).device
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "float16")
        self.checkpoint = folder / f"{name}.checkpoint.safetensors"
        self.processes.share(network)
        self.average = AveragedModel(network, multi_avg_fn=ema_update(settings.ema))
        self.optimizer = torch.optim.AdamW(
            network.parameters(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
        )
        self.step = 0

    def run(self, progress: Progress | None = None) -> nn.Module:
        """Train up to the last step, and give the averaged network.

        Raises:
            RuntimeError: the loss is not finite, or TensorBoard is asked for and missing.
            ValueError: the log in the folder is another stage's.
        """
        self.network.train()
        first = self.processes.rank == 0
        with contextlib.ExitStack() as stack:
            if first:
                log = StageLog(self.folder, self.name, self.step, tensorboard=self.tensorboard)
                stack.enter_context(contextlib.closing(log))
            while self.step < self.settings.steps:
                began = time.perf_counter()
                rate = self._learning_rate()
                values = self._advance(rate)
                if first:
                    seconds = time.perf_counter() - began
                    log.write(self.step, values | {"learning_rate": rate}, seconds)
                    if progress is not None:
                        progress(self.name, self.step, self.settings.steps, values)
                    if self._is_kept():
                        self.save()
        self.processes.wait()
        self.network.eval()
        return self.average.module

    def _is_kept(self) -> bool:
        return self.step % self.settings.checkpoint_every == 0 or self.step == self.settings.steps

    def _advance(self, rate: float) -> dict[str, float]:
        """One optimisation step."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        values = self._accumulate()
        loss = values["loss"]
        if not math.isfinite(loss):
            raise RuntimeError(
                f"{self.name}: the loss is {loss} at step {self.step + 1}; the last "
                f"checkpoint is {self.checkpoint}"
            )
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.gradient_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.average.update_parameters(self.network)
        self.step += 1
        return values

    def _accumulate(self) -> dict[str, float]:
        """The gradient of the whole batch, and its loss and terms."""
        total: dict[str, Tensor] = {}
        batch, parts = self.settings.batch, self.settings.accumulation
        size = batch // (self.processes.count * parts)
        for part in range(parts):
            start = (self.processes.rank * parts + part) * size
            generator = torch.Generator().manual_seed((self.seed << 32) + self.step)
            loss, terms = self.loss(Draws(generator, batch, slice(start, start + size)))
            self.scaler.scale(loss / parts).backward()
            for name, value in {"loss": loss, **terms}.items():
                share = value.detach().float() / parts
                total[name] = total[name] + share if name in total else share
        used = [p.grad for p in self.network.parameters() if p.grad is not None]
        self.processes.average([*used, *total.values()])
        return {name: float(value) for name, value in total.items()}

    def _learning_rate(self) -> float:
        warmup = min(1.0, (self.step + 1) / max(1, self.settings.warmup))
        decay = 0.5 * (1 + math.cos(math.pi * self.step / self.settings.steps))
        return self.settings.learning_rate * warmup * max(decay, 0.01)

    def save(self) -> None:
        """Write the checkpoint.

        Raises:
            RuntimeError: a weight is not finite; an earlier checkpoint is kept.
        """
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        average = self.average.module.state_dict()
        tensors |= {f"average.{name}": value.clone() for name, value in average.items()}
        try:
            check_all_finite(tensors, f"{self.name}: at step {self.step}")
        except ValueError as error:
            raise RuntimeError(f"{error}; the last checkpoint is {self.checkpoint}") from error
        tensors |= dict(self._moments())
        metadata = {"stage": self.name, "step": self.step, "seed": self.seed}
        settings = self._resumable(self.settings).model_dump(mode="json")
        metadata |= {"settings": settings, "scaler": self.scaler.state_dict()}
        save_tensors(self.checkpoint, tensors, metadata)

    @staticmethod
    def _resumable(settings: StageSettings) -> StageSettings:
        """The settings that a resumed run must share; how a batch is divided is not of them."""
        return settings.model_copy(update={"accumulation": 1})

    def load(self) -> None:
        """Go on from the checkpoint.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged, or of another stage, seed, recipe or network.
        """
        tensors, metadata = load_tensors(self.checkpoint)
        for key, value in {"stage": self.name, "seed": self.seed}.items():
            self._expect(key, metadata.get(key), value)
        stored = type(self.settings).read(
            metadata.get("settings"), f"{self.checkpoint} cannot be resumed: its settings"
        )
        for key, value in self._resumable(self.settings):
            self._expect(f"settings' {key}", getattr(stored, key), value)
        try:
            self._restore(tensors, metadata)
        except (RuntimeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{self.checkpoint} is damaged or of another network: {error}"
            ) from error

    def _expect(self, key: str, found: object, expected: object) -> None:
        if found != expected:
            raise ValueError(
                f"{self.checkpoint} cannot be resumed: its {key} is {found!r}, "
                f"this run's is {expected!r}"
            )

    def _restore(self, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        check_all_finite(tensors, str(self.checkpoint))
        step = metadata["step"]
        if type(step) is not int or not 0 <= step <= self.settings.steps:
            raise ValueError(
                f"{self.checkpoint}: expected a step of 0 … {self.settings.steps}; got {step!r}"
            )
        self.network.load_state_dict(_below("network.", tensors))
        self.average.module.load_state_dict(_below("average.", tensors))
        self.step = step
        self.average.n_averaged.fill_(self.step)
        self.scaler.load_state_dict(metadata["scaler"])
        for index, parameter in enumerate(self.network.parameters()):
            if f"optimizer.{index}.step" in tensors:
                self.optimizer.state[parameter] = {
                    name: tensors[f"optimizer.{index}.{name}"]
                    .to(parameter.device)
                    .view_as(parameter)
                    for name in _MOMENTS
                } | {"step": tensors[f"optimizer.{index}.step"]}

    def _moments(self) -> Iterator[tuple[str, Tensor]]:
        for index, parameter in enumerate(self.network.parameters()):
            # A parameter that no gradient has reached has none.
            for name, value in self.optimizer.state.get(parameter, {}).items():
                yield f"optimizer.{index}.{name}", value


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name begins with ``prefix``, without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
