"""CycleGAN: two generators, each the other's inverse, against two discriminators.

Source: Zhu et al., "Unpaired image-to-image translation using cycle-consistent adversarial
networks", ICCV 2017: least-squares adversarial loss, weights 10 (cycle) and 5 (identity), Adam at
2e-4 with β₁ = 0.5, instance normalisation, batches of one, a buffer of 50 earlier images. The
networks are smaller than the paper's, as the images are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.translation.learning import Draw, autocast, set_rate

CYCLE, IDENTITY = 10.0, 5.0
LEARNING_RATE = 2e-4
BUFFER = 50


def _convolution(
    in_channels: int, out_channels: int, size: int, stride: int = 1
) -> list[nn.Module]:
    """Convolution over a mirrored border, instance normalisation, ReLU."""
    return [
        nn.Conv2d(
            in_channels, out_channels, size, stride, padding=size // 2, padding_mode="reflect"
        ),
        nn.InstanceNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        first, second = _convolution(channels, channels, 3), _convolution(channels, channels, 3)
        self.body = nn.Sequential(*first, *second[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Generator(nn.Module):
    """Two halvings, residual blocks, two doublings (Johnson et al., 2016).

    Args:
        channels: width at the finest level; 4 times as wide at the coarsest.
        blocks: residual blocks.
    """

    def __init__(self, channels: int = 32, blocks: int = 4) -> None:
        super().__init__()
        wide = [channels, 2 * channels, 4 * channels]
        self.body = nn.Sequential(
            *_convolution(1, wide[0], 7),
            *_convolution(wide[0], wide[1], 3, stride=2),
            *_convolution(wide[1], wide[2], 3, stride=2),
            *(_Residual(wide[2]) for _ in range(blocks)),
            nn.Upsample(scale_factor=2),
            *_convolution(wide[2], wide[1], 3),
            nn.Upsample(scale_factor=2),
            *_convolution(wide[1], wide[0], 3),
            nn.Conv2d(wide[0], 1, 7, padding=3, padding_mode="reflect"),
            nn.Tanh(),
        )

    def forward(self, image: Tensor) -> Tensor:
        """(N, 1, height, width) within [-1, 1], multiples of 4, to the same."""
        return self.body(image)


class Discriminator(nn.Module):
    """PatchGAN: whether each patch of 34 × 34 is real (Isola et al., 2017).

    Args:
        channels: width of the first layer; doubled by each of the next two.
    """

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, channels, 4, 2, 1), nn.LeakyReLU(0.2)]
        for width, stride in ((channels, 2), (2 * channels, 1)):
            layers += [
                nn.Conv2d(width, 2 * width, 4, stride, 1),
                nn.InstanceNorm2d(2 * width),
                nn.LeakyReLU(0.2),
            ]
        self.body = nn.Sequential(*layers, nn.Conv2d(4 * channels, 1, 4, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """(N, 1, height, width) to a map of verdicts (N, 1, …): 1 real, 0 made."""
        return self.body(image)


class ReplayBuffer:
    """Images made earlier, so that a discriminator does not forget (Shrivastava et al., 2017).

    Args:
        size: images kept.
    """

    def __init__(self, size: int = BUFFER) -> None:
        self.size = size
        self.kept: list[Tensor] = []

    def exchange(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Each image, or with a chance of one half an earlier one that it takes the place of."""
        given = []
        for image in images.detach():
            if len(self.kept) < self.size:
                self.kept.append(image)
            elif torch.rand((), generator=generator) < 0.5:
                index = int(torch.randint(self.size, (), generator=generator))
                self.kept[index], image = image, self.kept[index]
            given.append(image)
        return torch.stack(given)


class CycleGAN:
    """A learner of both generators and both discriminators.

    Args:
        draw_source: batches of the source domain.
        draw_target: batches of the target domain.
        channels: width of all networks at their finest level.
        blocks: residual blocks of a generator.
        device: of torch.
    """

    def __init__(
        self,
        draw_source: Draw,
        draw_target: Draw,
        channels: int = 32,
        blocks: int = 4,
        device: str = "cpu",
    ) -> None:
        self.draw_source, self.draw_target = draw_source, draw_target
        self.generators = nn.ModuleDict(
            {name: Generator(channels, blocks) for name in ("to_target", "to_source")}
        ).to(device)
        self.discriminators = nn.ModuleDict(
            {name: Discriminator(channels) for name in ("target", "source")}
        ).to(device)
        for module in (*self.generators.modules(), *self.discriminators.modules()):
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        self.optimizers = {
            "generators": torch.optim.Adam(self.generators.parameters(), betas=(0.5, 0.999)),
            "discriminators": torch.optim.Adam(
                self.discriminators.parameters(), betas=(0.5, 0.999)
            ),
        }
        self.buffers = {"target": ReplayBuffer(), "source": ReplayBuffer()}

    def trained(self) -> nn.Module:
        """The generator from source to target."""
        return self.generators["to_target"]

    def step(self, generator: torch.Generator, rate: float) -> dict[str, float]:
        for optimizer in self.optimizers.values():
            set_rate(optimizer, LEARNING_RATE * rate)
        real = {
            "source": self.draw_source(generator)[0],
            "target": self.draw_target(generator)[0],
        }
        losses, made = self._generators(real)
        return losses | {"discriminators": self._discriminators(real, made, generator)}

    def _generators(self, real: dict[str, Tensor]) -> tuple[dict[str, float], dict[str, Tensor]]:
        """One step of both generators, and what they made."""
        self.discriminators.requires_grad_(False)
        terms = {"adversarial": 0.0, "cycle": 0.0, "identity": 0.0}
        made = {}
        loss = real["source"].new_zeros(())
        for here, there in (("source", "target"), ("target", "source")):
            forth, back = self.generators[f"to_{there}"], self.generators[f"to_{here}"]
            with autocast(loss.device):
                made[there] = forth(real[here]).float()
                verdict = self.discriminators[there](made[there]).float()
                cycled = back(made[there]).float()
                kept = forth(real[there]).float()
            adversarial = functional.mse_loss(verdict, torch.ones_like(verdict))
            cycle = functional.l1_loss(cycled, real[here])
            identity = functional.l1_loss(kept, real[there])
            loss = loss + adversarial + CYCLE * cycle + IDENTITY * identity
            for name, term in (
                ("adversarial", adversarial),
                ("cycle", cycle),
                ("identity", identity),
            ):
                terms[name] += float(term.detach())
        _descend(self.optimizers["generators"], loss)
        self.discriminators.requires_grad_(True)
        return terms, made

    def _discriminators(
        self, real: dict[str, Tensor], made: dict[str, Tensor], generator: torch.Generator
    ) -> float:
        """One step of both discriminators."""
        loss = real["source"].new_zeros(())
        for domain, discriminator in self.discriminators.items():
            shown = self.buffers[domain].exchange(made[domain], generator)
            with autocast(loss.device):
                true, false = discriminator(real[domain]).float(), discriminator(shown).float()
            loss = loss + 0.5 * (true - 1).square().mean() + 0.5 * false.square().mean()
        _descend(self.optimizers["discriminators"], loss)
        return float(loss.detach())


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
