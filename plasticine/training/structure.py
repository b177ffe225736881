"""Training the learned structure map by iterated back-translation, on unpaired images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from plasticine.diffusion.unet import ImageUNet
from plasticine.metrics.images import correlation
from plasticine.nn.precision import autocast
from plasticine.structure import BackTranslation
from plasticine.structure.interior import depth_in_body, interior_curve, match_interior
from plasticine.training.data import Domains, RandomDeformation
from plasticine.training.draws import Draws
from plasticine.training.intensity import RandomIntensity
from plasticine.training.recipe import StageSettings, StructureSettings
from plasticine.training.stage import Loss
from plasticine.translation.model import create_structure

_BATCH = 16
_DEPTH = 4
"""Voxels from the body's surface on which agreement is judged; the outline agrees always."""

Run = Callable[[str, nn.Module, Loss, StageSettings], None]
"""Trains a network as a stage of a given name: (name, network, loss, settings)."""


class RecolouringLoss:
    """Mean absolute error of a network that turns one picture of an anatomy into another.

    Args:
        network: what is trained.
        inputs: (n, C, *spatial) within [0, 1], on the training device.
        outputs: (n, 1, *spatial) within [0, 1], what each input should become.
        deformation: the random deformation of both together.
        precision: the network's, of ``nn.precision.PRECISIONS``.
        jitter: a random change of the inputs' intensity; None changes nothing.
    """

    def __init__(
        self,
        network: nn.Module,
        inputs: Tensor,
        outputs: Tensor,
        deformation: RandomDeformation,
        precision: str,
        jitter: RandomIntensity | None = None,
    ) -> None:
        self.network, self.inputs, self.outputs = network, inputs, outputs
        self.deformation, self.precision, self.jitter = deformation, precision, jitter

    def __call__(self, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the samples that ``draws`` gives; there are no terms to show."""
        index = draws.integers(0, len(self.inputs)).to(self.inputs.device)
        given, wanted = self.deformation([self.inputs[index], self.outputs[index]], draws)
        if self.jitter is not None:
            given = self.jitter(given, draws)
        with autocast(given.device, self.precision):
            made = self.network(given)
        return functional.l1_loss(made, wanted), {}


def train_back_translation(
    learned: BackTranslation,
    domains: Domains,
    deformation: RandomDeformation,
    settings: StructureSettings,
    run: Run,
) -> float:
    """Train the map's network h, from the target's look to the source's, without pairs.

    A first network learns S(x) → x of a fixed map S that both domains share, on the source
    alone; on S(y) it makes a first pseudo-source of each target. Each round then trains g from
    the pseudo-sources to their real targets, and h from g's pseudo-targets of the real sources
    to these; h's pseudo-sources are the next round's. What is asked for is always a real image.
    Where the map has an ``interior``, whatever a network has made is given the grey levels that
    real images have there before another one learns from it.

    Args:
        learned: the map.
        domains: the images, on the training device.
        deformation: the random deformation.
        settings: of the training; ``accept`` is for the caller.
        run: trains a network; its stages are "structure-base", "structure-1-target",
            "structure-1-source", ...

    Returns:
        How far h(y) agrees with what the first network made of S(y): the correlation of the two
        over all targets, 4 voxels or more inside of the body; from -1 to 1, and NaN where no
        body is that deep. Small networks reached 0.6 after a round from T1 to T2, and 0.14 from
        FLAIR to T2, where h is wrong (docs/structure.md). No pair is needed for it.
    """
    stage, jitter, precision = settings.stage, settings.jitter, settings.precision
    ndim, device = learned.ndim, domains.source.device
    x, y = (domains.source + 1) / 2, (domains.target + 1) / 2

    shared = create_structure(settings.base, ndim)
    inner = learned.network.network
    shape = {key: getattr(inner, key) for key in ("channels", "blocks", "patch_size")}
    first = ImageUNet(ndim, shared.channels, 1, **shape).to(device)
    to_target = ImageUNet(ndim, 1, 1, **shape).to(device)

    def learn(name: str, network: nn.Module, inputs: Tensor, outputs: Tensor) -> None:
        loss = RecolouringLoss(network, inputs, outputs, deformation, precision, jitter)
        run(f"structure-{name}", network, loss, stage)

    depth = learned.interior
    depth_x, depth_y = (depth_in_body(images, max(depth, _DEPTH)) for images in (x, y))

    def matched(made: Tensor, made_depth: Tensor, real: Tensor, real_depth: Tensor) -> Tensor:
        if not depth:
            return made
        curve = interior_curve(made, made_depth, real, real_depth, depth)
        return match_interior(made, made_depth, curve, depth)

    descriptors = applied(shared, domains.source)
    base = stage.model_copy(update={"steps": settings.base_steps})
    recovered = RecolouringLoss(first, descriptors, x, deformation, precision)
    run("structure-base", first, recovered, base)
    begun = pseudo_source = applied(first, applied(shared, domains.target))
    for index in range(1, settings.rounds + 1):
        pseudo_source = matched(pseudo_source, depth_y, x, depth_x)
        learn(f"{index}-target", to_target, pseudo_source, y)
        pseudo_target = matched(applied(to_target, x), depth_x, y, depth_y)
        learn(f"{index}-source", learned.network, pseudo_target, x)
        pseudo_source = applied(learned.network, y)
    if depth:
        learned.curve.copy_(interior_curve(pseudo_source, depth_y, x, depth_x, depth))
    return correlation(pseudo_source, begun, mask=depth_y >= _DEPTH)


@torch.no_grad()
def applied(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """A network's or map's output within [0, 1] for many images, a few at a time."""
    return torch.cat([network(part).clamp(0, 1) for part in images.split(_BATCH)])
