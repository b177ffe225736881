"""Back-translation: an image of either domain as it looks in the source domain."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plasticine.diffusion.unet import ImageUNet
from plasticine.structure.interior import LEVELS, depth_in_body, match_interior
from plasticine.structure.structure_map import StructureMap


class BackTranslation(StructureMap):
    """The image as the source domain shows it: a learned map, one channel.

    A source image is its own map, S(x) = x; a target image is translated back by a network,
    S(y) = h(y). The denoiser so learns to recolour source-like images, whose every grey level
    it can read, instead of descriptors that hide them. ``training.structure`` trains h on
    unpaired images, by rounds of iterated back-translation.

    Source: back-translation of unpaired corpora, Sennrich, Haddow and Birch, ACL 2016, and
    its rounds, Hoang et al., "Iterative back-translation", WNMT 2018; here of images.

    Args:
        ndim: 2 or 3.
        channels, blocks, patch_size: of h, as ``UNet`` documents them.
        interior: what lies this many voxels or more inside of the body is given the grey levels
            that real source images have there, by ``match_interior``. Where h is not sure, as
            of voxels half brain and half fluid, it draws towards the middle, and the denoiser
            would learn to colour greys that no real source has. 0 leaves h's greys alone.

    Attributes:
        curve: (2, LEVELS) buffer, where ``interior`` is not 0: the grey levels of h(y) and what
            they become; of ``interior_curve``.
    """

    learned = True

    def __init__(
        self,
        ndim: int,
        channels: Sequence[int] = (28, 40, 56, 56),
        blocks: int = 1,
        patch_size: int = 2,
        interior: int = 0,
    ) -> None:
        super().__init__(ndim)
        if interior < 0:
            raise ValueError(f"interior must be at least 0 voxels; got {interior}")
        self.channels = 1
        self.network = ImageUNet(ndim, 1, 1, tuple(channels), blocks, patch_size)
        self.interior = int(interior)
        if self.interior:
            self.curve: Tensor
            level = torch.linspace(0, 1, LEVELS, dtype=torch.float32)
            self.register_buffer("curve", level.repeat(2, 1))

    def of_domain(self, image: Tensor, domain: str | None) -> Tensor:
        """The map of an image that ``forward`` has checked."""
        if domain is None:
            raise ValueError(
                "back-translation needs to know an image's domain: expected 'source' or "
                "'target'; got None"
            )
        unit = (image + 1) / 2
        if domain == "source":
            return unit
        made = self.network(unit).to(image.dtype).clamp(0, 1)
        if not self.interior:
            return made
        depths = depth_in_body(unit, self.interior)
        return match_interior(made, depths, self.curve, self.interior)
