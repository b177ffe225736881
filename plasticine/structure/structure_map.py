"""The interface that every structure map has."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from plasticine.nn.finite import check_finite
from plasticine.ops._checks import is_tensor

DOMAINS = ("source", "target")


class StructureMap(nn.Module):
    """A fixed (untrained) map from an image to its structure channels.

    Attributes:
        ndim: spatial axes of the images it takes, 2 or 3.
        channels: channels of the map it gives, each within [0, 1].
        needs_labels: whether it is made from the image's label map, and not from the image.
        learned: whether it has weights, which a training finds before the denoiser's.
    """

    channels: int
    needs_labels: ClassVar[bool] = False
    learned: ClassVar[bool] = False

    def __init__(self, ndim: int) -> None:
        super().__init__()
        if ndim not in (2, 3):
            raise ValueError(f"a structure map is for images of 2 or 3 axes; got ndim={ndim}")
        self.ndim = ndim

    @torch.no_grad()
    def forward(
        self, image: Tensor, domain: str | None = None, *, labels: Tensor | None = None
    ) -> Tensor:
        """The structure of ``image``.

        Args:
            image: (N, 1, *spatial), floating point, within [-1, 1].
            domain: "source" or "target", which the image is of; most maps treat both alike
                and take None, too.
            labels: (N, 1, *spatial), integers, the image's label map; of a map that
                ``needs_labels``, and of no other.

        Returns:
            (N, channels, *spatial), the image's dtype, within [0, 1].

        Raises:
            ValueError: the image has another number of axes or channels, the labels another
                shape than the image, or they are missing or not wanted; the image holds NaN or
                infinity; the domain is not one of them, or the map needs it and got None.
            TypeError: the image is not a floating-point tensor, or the labels are one, or are of
                uint16, uint32 or uint64.
        """
        self.check(image, labels=labels)
        if domain is not None and domain not in DOMAINS:
            raise ValueError(f"domain must be one of {', '.join(DOMAINS)}; got {domain!r}")
        if labels is None:
            return self.of_domain(image, domain)
        return self.compute_from_labels(labels).to(image.dtype)

    def check(self, image: Tensor, *, labels: Tensor | None = None) -> None:
        """Raise what ``forward`` would raise for these arguments."""
        is_tensor(image, "image")
        if labels is not None:
            is_tensor(labels, "labels")
        if image.ndim != self.ndim + 2 or image.shape[1] != 1:
            raise ValueError(
                f"expected an image of shape (N, 1, *spatial) with {self.ndim} spatial axes; "
                f"got {tuple(image.shape)}"
            )
        if not image.is_floating_point():
            raise TypeError(f"expected a floating-point image; got {image.dtype}")
        if not self.needs_labels:
            if labels is not None:
                raise ValueError(f"structure map {type(self).__name__} takes no labels; got some")
            check_finite(image, "image")
            return
        if labels is None:
            raise ValueError("this structure map is made from a label map; got none")
        if labels.shape != image.shape:
            raise ValueError(
                f"labels must have the image's shape {tuple(image.shape)}; "
                f"got {tuple(labels.shape)}"
            )
        if labels.is_floating_point() or labels.is_complex():
            raise TypeError(f"labels must be integers or bool; got {labels.dtype}")
        if labels.dtype in (torch.uint16, torch.uint32, torch.uint64):
            # torch neither compares nor bounds them.
            raise TypeError(f"labels must be bool, uint8 or signed integers; got {labels.dtype}")

    def of_domain(self, image: Tensor, domain: str | None) -> Tensor:
        """The map of an image of a domain; the same for both, where a map does not say more."""
        return self.compute(image)

    def compute(self, image: Tensor) -> Tensor:
        """The map itself, on an image that ``forward`` has checked."""
        raise NotImplementedError

    def compute_from_labels(self, labels: Tensor) -> Tensor:
        """The map of a label map that ``forward`` has checked, where it ``needs_labels``."""
        raise NotImplementedError
