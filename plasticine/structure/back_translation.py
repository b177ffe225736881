"""Back-translation: an image of either domain as it looks in the source domain."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from plasticine.diffusion.unet import ImageUNet
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
    """

    learned = True

    def __init__(
        self,
        ndim: int,
        channels: Sequence[int] = (28, 40, 56, 56),
        blocks: int = 1,
        patch_size: int = 2,
    ) -> None:
        super().__init__(ndim)
        self.channels = 1
        self.network = ImageUNet(ndim, 1, 1, tuple(channels), blocks, patch_size)

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
        return self.network(unit).to(image.dtype).clamp(0, 1)
