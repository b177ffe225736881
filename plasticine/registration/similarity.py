"""How an image should change to look more like another: gradients of similarities, no graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from plasticine.ops._mutual_information import information
from plasticine.ops.joint_histogram import JOINT_HISTOGRAM, JOINT_HISTOGRAM_BACKWARD, extremes
from plasticine.ops.lncc import LNCC_BACKWARD
from plasticine.ops.mind_distance import MIND_DISTANCE_BACKWARD

METRICS = ("lncc", "mutual_information", "mind", "sum_of_squares")

#: (warped, mask) to the gradient of their similarity to the fixed image, of the shape of warped.
SimilarityGradient = Callable[[Tensor, Tensor | None], Tensor]

_BINS = 32


@dataclass(frozen=True)
class Similarity:
    """What two images are compared by.

    Attributes:
        metric: "lncc", "mutual_information", "mind" or "sum_of_squares".
        window: of "lncc", the side in voxels: odd, 3 or more.
        dilations: of "mind", voxels.
    """

    metric: str = "lncc"
    window: int = 5
    dilations: tuple[int, ...] = (1, 2)

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}; got {self.metric!r}")
        if self.window < 3 or self.window % 2 == 0:
            raise ValueError(f"window must be odd and 3 or more; got {self.window}")
        if not self.dilations or min(self.dilations) < 1:
            raise ValueError(f"dilations must be one or more of 1 or more; got {self.dilations}")

    def gradient(self, moving: Tensor, fixed: Tensor) -> SimilarityGradient:
        """The gradient, with respect to the warped image, of the similarity summed over voxels.

        Where it can, it is always the same memory that is returned.

        Args:
            moving: (N, C, *any) what is to be warped.
            fixed: (N, C, *spatial) what it is compared with.
        """
        # Each operator's value is a mean; times the voxels, its gradient does not depend on size.
        grad = fixed.new_full((len(fixed),), float(fixed[0, 0].numel()))
        if self.metric == "lncc":
            words = self.window, "box", True, "inside", "flat", 0.0, 0.0, "auto", [True, False]
            of_warped = torch.empty_like(fixed)
            scratch = LNCC_BACKWARD.scratch_for(grad, fixed, fixed, None, *words)

            def lncc(warped: Tensor, mask: Tensor | None) -> Tensor:
                results = of_warped, None
                LNCC_BACKWARD.into(results, grad, warped, fixed, mask, *words, scratch=scratch)
                return of_warped

            return lncc
        if self.metric == "mind":
            grad.neg_()

            def mind(warped: Tensor, mask: Tensor | None) -> Tensor:
                options = list(self.dilations), 0.8, "charbonnier", 1e-2, "auto"
                needs = [True, False]
                return MIND_DISTANCE_BACKWARD(grad, warped, fixed, mask, *options, needs)[0]

            return mind
        if self.metric == "mutual_information":
            ends = torch.stack([extremes(moving), extremes(fixed)], 1)

            def mutual_information(warped: Tensor, mask: Tensor | None) -> Tensor:
                inputs = warped, fixed, mask, ends
                options = _BINS, "bspline", 0.5, "auto"
                histogram = JOINT_HISTOGRAM(*inputs, *options).requires_grad_()
                with torch.enable_grad():
                    (of_histogram,) = torch.autograd.grad(information(histogram), histogram, grad)
                return JOINT_HISTOGRAM_BACKWARD(of_histogram, *inputs, *options, [True, False])[0]

            return mutual_information

        # So that a step does not depend on the unit of the intensities.
        variance = fixed.flatten(2).var(2, correction=0)
        variance = variance.masked_fill(variance == 0, 1)
        scale = variance.view(*variance.shape, *[1] * (fixed.ndim - 2)).reciprocal()

        def squares(warped: Tensor, mask: Tensor | None) -> Tensor:
            difference = torch.sub(fixed, warped).mul_(scale)
            return difference if mask is None else difference.mul_(mask)

        return squares
