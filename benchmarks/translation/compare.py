"""Every way to translate, on the same images and the same training budget, in one table.

    python -m benchmarks.translation.compare --task T1-T2 --minutes 30 --output FOLDER

Trains the peers that need it (their weights stay in the folder, so that a run that was killed goes
on), translates the slices of patient 07 in their own space, and compares them with that patient's
true images. ``--model`` adds our own models, sampled without deformation. Writes ``compare.json``
and ``compare.png``.
"""

from __future__ import annotations

import argparse
import functools
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from benchmarks.translation.baselines import histogram_match, look_up_table, mask_alone
from benchmarks.translation.cycle_gan import CycleGAN
from benchmarks.translation.held_out import score
from benchmarks.translation.learning import Budget, Draw, Learner, SingleLoss, train
from benchmarks.translation.paired import PairedLoss
from benchmarks.translation.record import add_data_argument, machine, versions, write
from benchmarks.translation.registered_target import nearest_target, register
from benchmarks.translation.task import TASKS, Task, from_network, load_task, to_network
from benchmarks.translation.unconditional import (
    UnconditionalLoss,
    ddib,
    sdedit,
    unconditional_denoiser,
)
from plasticine.cli.progress import progress
from plasticine.diffusion import Denoiser, ImageUNet
from plasticine.metrics import (
    FEATURE_EXTRACTOR,
    RandomFeatures,
    frechet_distance,
    kernel_distance,
)
from plasticine.training import load_recipe
from plasticine.translation import Translator

PAIRED = "has seen true pairs: a bound, not a competitor"
SDEDIT_STARTS = (0.4, 0.7)
NETWORKS = {
    "SDEdit": ("target_diffusion",),
    "DDIB": ("source_diffusion", "target_diffusion"),
    "CycleGAN": ("generator",),
    "paired U-Net": ("paired_network",),
}
"""What of ``Peers`` the methods need whose names begin so."""


@dataclass(frozen=True)
class Settings:
    """What all trained peers share.

    Attributes:
        budget: of each training.
        output: where weights are kept.
        seed: of initial weights, draws and noise.
        network: ``channels``, ``blocks`` and ``patch_size`` of every U-Net.
        gan: ``channels`` and ``blocks`` of the CycleGAN.
        steps: network runs of a diffusion's sample.
        iterations: of a registration.
    """

    budget: Budget
    output: Path
    seed: int = 0
    network: dict[str, Any] = field(default_factory=dict)
    gan: dict[str, Any] = field(default_factory=dict)
    steps: int = 20
    iterations: int = 100


class Peers:
    """The peers that are trained on a task, each network once, when it is first asked for.

    Args:
        task: the images.
        settings: what all share.
    """

    def __init__(self, task: Task, settings: Settings) -> None:
        self.task, self.settings = task, settings
        self.deformation = load_recipe("brain-t1-t2").augmentation
        self.training: dict[str, Any] = {}

    def train(self, methods: Iterable[str]) -> None:
        """Train now whatever these methods need."""
        methods = tuple(methods)
        for beginning, networks in NETWORKS.items():
            if any(name.startswith(beginning) for name in methods):
                for network in networks:
                    getattr(self, network)

    @functools.cached_property
    def source_diffusion(self) -> Denoiser:
        """The unconditional diffusion of the source domain."""
        return self._diffusion("source", self.task.source)

    @functools.cached_property
    def target_diffusion(self) -> Denoiser:
        """The unconditional diffusion of the target domain."""
        return self._diffusion("target", self.task.target)

    @functools.cached_property
    def generator(self) -> nn.Module:
        """CycleGAN's, from source to target."""
        torch.manual_seed(self.settings.seed)
        draws = [self._draw(domain, batch=1) for domain in (self.task.source, self.task.target)]
        return self._trained("CycleGAN", CycleGAN(*draws, **self.settings.gan))

    @functools.cached_property
    def paired_network(self) -> nn.Module:
        """The U-Net that is shown pairs."""
        torch.manual_seed(self.settings.seed)
        model = ImageUNet(2, 1, 1, **self.settings.network)
        loss = PairedLoss(model, self._draw(*self.task.pairs))
        return self._trained("paired U-Net", SingleLoss(model, loss))

    def paired(self, source: Tensor) -> Tensor:
        """The paired U-Net's answer, within [-1, 1]."""
        return in_batches(self.paired_network, source)

    def cycle_gan(self, source: Tensor) -> Tensor:
        """CycleGAN's answer, within [-1, 1]."""
        return in_batches(self.generator, source)

    def sdedit(self, source: Tensor, start: float) -> Tensor:
        """SDEdit's answer, within [-1, 1]."""
        generator = torch.Generator().manual_seed(self.settings.seed)
        denoiser = self.target_diffusion
        return sdedit(denoiser, source, start=start, steps=self.settings.steps, generator=generator)

    def ddib(self, source: Tensor) -> Tensor:
        """The answer of dual diffusion implicit bridges, within [-1, 1]."""
        steps = self.settings.steps
        return ddib(self.source_diffusion, self.target_diffusion, source, steps=steps)

    def _diffusion(self, domain: str, images: Tensor) -> Denoiser:
        torch.manual_seed(self.settings.seed)
        schedule = {"kind": "cosine", "steps": 1000}
        denoiser = unconditional_denoiser(schedule, self.settings.network)
        loss = UnconditionalLoss(denoiser, self._draw(images))
        trained = self._trained(f"{domain} diffusion", SingleLoss(denoiser, loss))
        assert isinstance(trained, Denoiser)
        return trained

    def _draw(self, *images: Tensor, batch: int = 8) -> Draw:
        return Draw(images, self.deformation, batch)

    def _trained(self, name: str, learner: Learner) -> nn.Module:
        path = self.settings.output / f"{name.lower().replace(' ', '-')}.safetensors"
        identity = {
            "task": self.task.name,
            "data": self.task.data,
            "networks": [self.settings.network, self.settings.gan],
        }
        self.training[name] = train(
            name, learner, self.settings.budget, path, identity, self.settings.seed
        )
        return learner.trained()


@torch.no_grad()
def in_batches(network: Callable[[Tensor], Tensor], source: Tensor) -> Tensor:
    """A network's float32 output for many images, eight at a time."""
    return torch.cat([network(part).float() for part in source.split(8)])


def methods(task: Task, peers: Peers) -> dict[str, tuple[Callable[[], Tensor], str]]:
    """Each method's translation of the test slices within [0, 1], and what to know about it."""
    test = task.test
    source, mask, target = test["source"], test["mask"], test["target"]
    x = to_network(source)

    def cut(answer: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
        return lambda: from_network(answer(x), source.shape[2:])

    def registered(deformable: bool) -> Callable[[], Tensor]:
        iterations = peers.settings.iterations
        return cut(
            lambda x: register(
                nearest_target(x, task.target), x, deformable=deformable, iterations=iterations
            )
        )

    def unpaired_look_up(inverted: bool) -> Callable[[], Tensor]:
        return lambda: histogram_match(source, mask, target, inverted=inverted)

    def edited(start: float) -> Callable[[], Tensor]:
        return cut(lambda x: peers.sdedit(x, start))

    pairs = tuple((images + 1) / 2 for images in task.pairs)
    found = {
        "identity": (lambda: source, ""),
        "mask alone": (lambda: mask_alone(mask, target), ""),
        "histogram matching": (unpaired_look_up(False), ""),
        "inverted histogram matching": (unpaired_look_up(True), "told that contrast inverts"),
        "affine only": (registered(False), "nearest target slice, aligned"),
        "registration only": (registered(True), "nearest target slice, aligned"),
    }
    for start in SDEDIT_STARTS:
        found[f"SDEdit, K = {start:g} T"] = (edited(start), "")
    return found | {
        "DDIB": (cut(peers.ddib), ""),
        "CycleGAN": (cut(peers.cycle_gan), ""),
        "look-up table": (lambda: look_up_table(source, (pairs[0], pairs[1])), PAIRED),
        "paired U-Net": (cut(peers.paired), PAIRED),
    }


def ours(name: str, source: Tensor, samples: int, seed: int) -> Tensor:
    """The mean of a Plasticine model's samples, without deformation, within [0, 1]."""
    with progress(f"{name}, samples {samples}") as advance:
        trace = Translator.load(name).translate(
            source, deform=False, samples=samples, seed=seed, progress=advance
        )
    return trace.translated


def compare(
    task: Task, peers: Peers, models: list[str], samples: int, without: tuple[str, ...] = ()
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Every method's figures by its name, and its images, but those whose names begin as said.

    Its images are compared with the true ones and, as a set, with the target's training images.
    """
    listed = {
        name: method
        for name, method in methods(task, peers).items()
        if not name.startswith(without)
    }
    for model in models:
        for count in sorted({1, samples}):
            # The names are bound now: the loop goes on before they are used.
            translate = lambda m=model, n=count: ours(  # noqa: E731
                m, task.test["source"], n, peers.settings.seed
            )
            listed[f"Plasticine {Path(model).stem}, mean of {count}"] = (translate, "")
    peers.train(listed)  # before any clock runs: "seconds" are those of translating
    figures, images = {}, {}
    for name, (translate, note) in listed.items():
        began = time.perf_counter()
        images[name] = translate().clamp(0, 1)
        seconds = time.perf_counter() - began
        figures[name] = (
            score(images[name], task.test)
            | distances(images[name], task.test["target"])
            | {"seconds": seconds, "note": note}
        )
    return figures, images


def distances(images: Tensor, target: Tensor) -> dict[str, float]:
    """How far two sets of images (N, 1, height, width) within [0, 1] are apart, by features."""
    extractor = RandomFeatures()
    found, wanted = extractor(images), extractor(target)
    return {
        "frechet_distance": frechet_distance(found, wanted),
        "kernel_distance": kernel_distance(found, wanted),
    }


def table(figures: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    lines = [
        "| method | PSNR | SSIM | SSIM inside | correlation inside | Fréchet × 1000 | |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, values in figures.items():
        lines.append(
            f"| {name} | {values['psnr']:.2f} | {values['ssim']:.3f} | "
            f"{values['ssim_inside']:.2f} | {values['correlation_inside']:.2f} | "
            f"{1000 * values['frechet_distance']:.1f} | {values['note']} |"
        )
    return "\n".join(lines)


def draw(images: dict[str, Tensor], test: dict[str, Tensor], path: Path) -> None:
    """Four slices of every method beside the source and the truth."""
    columns = {"source": test["source"], "truth": test["truth"]} | images
    rows = (np.linspace(0.2, 0.8, 4) * len(test["source"])).astype(int)
    figure = Figure(figsize=(1.6 * len(columns), 1.9 * len(rows)), layout="tight")
    for line, row in zip(
        figure.subplots(len(rows), len(columns), squeeze=False), rows, strict=True
    ):
        for axis, (name, stack) in zip(line, columns.items(), strict=True):
            axis.imshow(stack[row, 0], cmap="gray", vmin=0, vmax=1)
            axis.set_axis_off()
            if row == rows[0]:
                axis.set_title(name.replace(", ", ",\n"), fontsize=7)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=TASKS, default="T1-T2")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=float, help="of processor time a thread, each training")
    budget.add_argument("--steps", type=int, help="of optimisation, each training")
    parser.add_argument("--strict", action="store_true", help="nobody is seen in both domains")
    parser.add_argument("--model", action="append", default=[], help="a model of ours; repeatable")
    parser.add_argument(
        "--without", choices=NETWORKS, action="append", default=[], help="a peer; repeatable"
    )
    parser.add_argument("--samples", type=int, default=8, help="of our models' mean")
    parser.add_argument("--every", type=int, default=1, help="take every n-th slice")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    add_data_argument(parser)
    arguments = parser.parse_args()
    matplotlib.use("Agg")
    arguments.output.mkdir(parents=True, exist_ok=True)
    task = load_task(arguments.task, arguments.data, strict=arguments.strict, seed=arguments.seed)
    for name in ("source", "truth", "mask"):
        task.test[name] = task.test[name][:: arguments.every]
    settings = Settings(
        budget=Budget(arguments.minutes, arguments.steps),
        output=arguments.output,
        seed=arguments.seed,
        network=load_recipe("brain-t1-t2").model.denoiser.model_dump(mode="json"),
    )
    peers = Peers(task, settings)
    figures, images = compare(
        task, peers, arguments.model, arguments.samples, tuple(arguments.without)
    )
    draw(images, task.test, arguments.output / "compare.png")
    record = {
        "command": shlex.join(["python", "-m", "benchmarks.translation.compare", *sys.argv[1:]]),
        "task": task.name,
        "data": task.data,
        "slices": f"patient 07, {len(task.test['source'])} slices",
        "budget": asdict(settings.budget),
        "seed": settings.seed,
        "machine": machine(),
        "versions": versions(),
        "training": peers.training,
        "features": FEATURE_EXTRACTOR,
        "distances_of_the_truth": distances(task.test["truth"], task.test["target"]),
        "figures": figures,
    }
    write(arguments.output / "compare.json", record)
    print(table(figures))


if __name__ == "__main__":
    main()
