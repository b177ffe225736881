"""How an image should change to look more like another: gradients of similarities, no graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plasticine.ops._mutual_information import information
from plasticine.ops._operator import Operator
from plasticine.ops.joint_histogram import JOINT_HISTOGRAM, JOINT_HISTOGRAM_BACKWARD, extremes
from plasticine.ops.lncc import LNCC_BACKWARD
from plasticine.ops.mind_distance import MIND_DISTANCE_BACKWARD

METRICS = ("lncc", "mutual_information", "mind", "sum_of_squares")

#: (warped, mask) to the gradient of their similarity to the fixed image, of the shape of warped:
#: always the same memory.
SimilarityGradient = Callable[[Tensor, Tensor | None], Tensor]

_BINS = 32


@dataclass(frozen=True)
class Similarity:
    """What two images are compared by.

    Attributes:
        metric: "lncc", "mutual_information", "mind" or "sum_of_squares".
        window: of "lncc", the side in voxels: odd, 3 or more.
        dilations: of "mind", voxels.
        weight: how much it counts beside other similarities of the same images.
        channels: which of the images' channels it compares, each with its own: a range without
            gaps. None: all.
    """

    metric: str = "lncc"
    window: int = 5
    dilations: tuple[int, ...] = (1, 2)
    weight: float = 1.0
    channels: range | None = None

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}; got {self.metric!r}")
        if self.window < 3 or self.window % 2 == 0:
            raise ValueError(f"window must be odd and 3 or more; got {self.window}")
        if not self.dilations or min(self.dilations) < 1:
            raise ValueError(f"dilations must be one or more of 1 or more; got {self.dilations}")
        if not 0 < self.weight < math.inf:
            raise ValueError(f"weight must be positive and finite; got {self.weight}")
        channels = self.channels
        if channels is not None and (
            not isinstance(channels, range)
            or channels.step != 1
            or not 0 <= channels.start < channels.stop
        ):
            raise ValueError(
                "channels must be a range from 0 or more, with step 1 and not empty, or None; "
                f"got {channels!r}"
            )

    def of(self, images: Tensor) -> Tensor:
        """Those channels of (N, C, *spatial) that are compared, contiguous.

        Raises:
            ValueError: there are not so many.
        """
        self.check(images)
        channels = self.channels
        if channels is None:
            return images
        return images[:, channels.start : channels.stop].contiguous()

    def check(self, images: Tensor) -> None:
        """Refuses images (N, C, *spatial) without the channels that are compared."""
        channels = self.channels
        if channels is not None and channels.stop > images.shape[1]:
            raise ValueError(
                f"channels {channels.start} to {channels.stop - 1} are to be compared, counted "
                f"from 0; got images of {images.shape[1]}"
            )

    def gradient(self, moving: Tensor, fixed: Tensor) -> SimilarityGradient:
        """The gradient, with respect to the warped image, of the similarity summed over voxels.

        Args:
            moving: (N, C, *any) what is to be warped; of the channels that are compared, as
                ``of`` gives them.
            fixed: (N, C, *spatial) what it is compared with, likewise.
        """
        of_warped = torch.empty_like(fixed)
        if self.metric == "lncc":
            return _lncc(fixed, of_warped, self.window)
        if self.metric == "mind":
            return _mind(fixed, of_warped, self.dilations)
        if self.metric == "mutual_information":
            return _mutual_information(moving, fixed, of_warped)
        return _sum_of_squares(fixed, of_warped)


def similarities_of(similarity: Similarity | Sequence[Similarity]) -> tuple[Similarity, ...]:
    """One or several, as a tuple.

    Raises:
        TypeError: something else is among them.
        ValueError: there is none.
    """
    found = (similarity,) if isinstance(similarity, Similarity) else tuple(similarity)
    for one in found:
        if not isinstance(one, Similarity):
            raise TypeError(f"similarity must be a Similarity, or several; got {one!r}")
    if not found:
        raise ValueError("a registration needs a similarity; got none")
    return found


def _voxels(fixed: Tensor) -> Tensor:
    """Of each image, (N,): an operator's value is a mean; times this, a sum over voxels."""
    return fixed.new_full((len(fixed),), float(fixed[0, 0].numel()))


def _by_operator(
    operator: Operator, grad: Tensor, fixed: Tensor, of_warped: Tensor, words: tuple[Any, ...]
) -> SimilarityGradient:
    """Of the backward operator of a measure (grad, warped, fixed, mask, *words)."""
    scratch = operator.scratch_for(grad, fixed, fixed, None, *words)

    def gradient(warped: Tensor, mask: Tensor | None) -> Tensor:
        operator.into((of_warped, None), grad, warped, fixed, mask, *words, scratch=scratch)
        return of_warped

    return gradient


def _lncc(fixed: Tensor, of_warped: Tensor, window: int) -> SimilarityGradient:
    words = window, "box", True, "inside", "flat", 0.0, 0.0, "auto", [True, False]
    return _by_operator(LNCC_BACKWARD, _voxels(fixed), fixed, of_warped, words)


def _mind(fixed: Tensor, of_warped: Tensor, dilations: Sequence[int]) -> SimilarityGradient:
    words = list(dilations), 0.8, "charbonnier", 1e-2, "auto", [True, False]
    return _by_operator(MIND_DISTANCE_BACKWARD, -_voxels(fixed), fixed, of_warped, words)


def _mutual_information(moving: Tensor, fixed: Tensor, of_warped: Tensor) -> SimilarityGradient:
    # Every channel has a histogram of its own: they are samples of a batch. The mean over them.
    moving, fixed, result = (x.flatten(0, 1).unsqueeze(1) for x in (moving, fixed, of_warped))
    channels = of_warped.shape[1]
    grad = _voxels(fixed) / channels
    ends = torch.stack([extremes(moving), extremes(fixed)], 1)

    def gradient(warped: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None:
            mask = mask.expand(len(warped), *mask.shape[1:]).repeat_interleave(channels, 0)
        inputs = warped.flatten(0, 1).unsqueeze(1), fixed, mask, ends
        words = _BINS, "bspline", 0.5, "auto"
        histogram = JOINT_HISTOGRAM(*inputs, *words).requires_grad_()
        with torch.enable_grad():
            (of_histogram,) = torch.autograd.grad(information(histogram), histogram, grad)
        results = result, None
        JOINT_HISTOGRAM_BACKWARD.into(results, of_histogram, *inputs, *words, [True, False])
        return of_warped

    return gradient


def _sum_of_squares(fixed: Tensor, of_warped: Tensor) -> SimilarityGradient:
    # So that a step does not depend on the unit of the intensities.
    variance = fixed.flatten(2).var(2, correction=0)
    variance = variance.masked_fill(variance == 0, 1)
    scale = variance.view(*variance.shape, *[1] * (fixed.ndim - 2)).reciprocal()

    def gradient(warped: Tensor, mask: Tensor | None) -> Tensor:
        torch.sub(fixed, warped, out=of_warped).mul_(scale)
        return of_warped if mask is None else of_warped.mul_(mask)

    return gradient
