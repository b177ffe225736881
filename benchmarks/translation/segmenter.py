"""A segmenter of the left ventricle, trained on one population: the judge of a translation."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.translation.learning import Draw, autocast
from plasticine.diffusion import ImageUNet
from plasticine.nn.losses import soft_dice
from plasticine.training.data import RandomDeformation
from plasticine.training.draws import Draws
from plasticine.training.intensity import RandomIntensity

NETWORK = {"channels": (32, 48, 64, 64), "blocks": 1, "patch_size": 2}
DEFORMATION = RandomDeformation(
    rotation=25.0, scaling=0.4, translation=6.0, displacement=2.5, smoothness=20
)


class Segmenter(nn.Module):
    """From images (N, 1, *spatial) within [0, 1] to the logit of each pixel.

    The grey levels of cine MR have no unit: the network sees each image's deviations from its
    mean, in its standard deviation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.network = ImageUNet(2, 1, 1, **NETWORK)

    def forward(self, image: Tensor) -> Tensor:
        """float32 (N, 1, *spatial)."""
        axes = tuple(range(1, image.ndim))
        deviation = image.std(axes, keepdim=True).clamp_min(1e-6)
        return self.network((image - image.mean(axes, keepdim=True)) / deviation)


class SegmentationLoss:
    """Cross-entropy and one minus soft Dice, on randomly deformed and recoloured images.

    Args:
        network: what is trained.
        draw: batches of images within [0, 1] and their masks.
    """

    def __init__(self, network: nn.Module, draw: Draw) -> None:
        self.network, self.draw = network, draw
        self.jitter = RandomIntensity(remap=0.3, offset=0.0, field=0.1, noise=0.01)

    def __call__(self, generator: torch.Generator) -> Tensor:
        image, mask = self.draw(generator)
        image = self.jitter(image.clamp(0, 1), Draws(generator, len(image)))
        with autocast(image.device):
            logits = self.network(image)
        overlap = soft_dice(logits.sigmoid(), mask)
        return functional.binary_cross_entropy_with_logits(logits, mask) + 1 - overlap


@torch.no_grad()
def segment(network: nn.Module, images: Tensor) -> Tensor:
    """The largest connected part of what the network finds in each image, bool."""
    found = torch.cat([network(part) > 0 for part in images.split(16)])
    return torch.from_numpy(np.stack([largest_part(mask) for mask in found[:, 0].numpy()]))[:, None]


def largest_part(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a mask."""
    numbered, count = ndimage.label(mask)
    if count == 0:
        return mask
    return numbered == 1 + np.bincount(numbered.ravel())[1:].argmax()
