"""What moves a displacement field: similarities of images, and landmarks, in one gradient."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from plasticine.ops.warp import WARP, WARP_BACKWARD
from plasticine.registration.landmarks import Landmarks
from plasticine.registration.pyramid import LevelPair
from plasticine.registration.similarity import Similarity

_WORDS = "linear", "border", "auto"
# What a landmark's pull is measured by where images are flat, and nothing in them pulls.
_LEAST_SIZE = 0.1
# A similarity that has all but arrived, and pulls less than this of what others do, is not made as
# strong as they are: it would be its noise.
_LEAST_PULL = 0.1


class Forces:
    """The gradient of all that drives a registration to u, where φ(p) = A(p + u(p)).

    Similarities have gradients of unlike sizes. Each is divided by its root mean square length over
    the voxels where the level begins, and weighted; what comes out has the weighted mean of
    their sizes. So weights mean the same whatever the metrics and the unit of the intensities, and
    two equal similarities are one. Of a landmark that lies a voxel off, the pull is ``weight``
    times that size.

    Everything it needs is taken when it is made: a call takes no memory.

    Args:
        pair: the images of the level.
        u: (N, d, *fixed spatial), where the level begins.
        similarities: of the warped and the fixed image.
        landmarks: in voxels of the level.
        sigma: how wide the Gaussian is that the gradient will be smoothed with, voxels.
    """

    def __init__(
        self,
        pair: LevelPair,
        u: Tensor,
        similarities: Sequence[Similarity],
        landmarks: Landmarks | None,
        sigma: float,
    ) -> None:
        self._moving, self._affine = pair.moving, pair.affine
        count, channels = pair.fixed.shape[:2]
        self._moving_mask, self._fixed_mask = (
            None if mask is None else mask.expand(count, *mask.shape[1:])
            for mask in (pair.moving_mask, pair.fixed_mask)
        )
        self._both_masks = u.new_empty(count, 1, *u.shape[2:])
        linear = pair.affine[:, :, :-1]
        unit = torch.eye(linear.shape[1], dtype=linear.dtype, device=linear.device)
        self._linear = None if bool((linear == unit).all()) else linear.contiguous()
        self._offset = None if self._linear is None else torch.empty_like(u)
        self._warped = torch.empty_like(pair.fixed)
        self._similarities = [
            (one, one.gradient(one.of(pair.moving), one.of(pair.fixed))) for one in similarities
        ]
        self._of_warped = self._scales = self._points = None
        only = similarities[0].channels
        if len(similarities) > 1 or only not in (None, range(channels)):
            self._of_warped = torch.zeros_like(pair.fixed)
        if len(similarities) == 1 and landmarks is None:
            return
        sizes = self._sizes(u)
        share = u.new_tensor([one.weight for one in similarities])
        share = (share / share.sum()).view(-1, *[1] * u.ndim)
        size = (share * sizes).sum(0)
        if len(similarities) > 1:
            floor = (_LEAST_PULL * size).clamp_min(torch.finfo(size.dtype).tiny)
            self._scales = share * size / torch.maximum(sizes, floor)
        if landmarks is not None:
            size = size.view(-1, 1, 1).clamp_min(_LEAST_SIZE)
            self._points = _Points(landmarks, u, size, sigma)

    def __call__(self, u: Tensor, result: Tensor, spare: Tensor) -> None:
        """Writes the gradient at ``u`` to ``result``; ``spare`` is as large, and overwritten."""
        w = self._warp(u)
        mask = self._mask(w)
        if self._of_warped is None:
            of_warped = self._similarities[0][1](self._warped, mask)
        else:
            of_warped = self._of_warped.zero_()
            for number in range(len(self._similarities)):
                self._add(number, mask, None if self._scales is None else self._scales[number])
        self._to_field(of_warped, w, result, spare)
        if self._points is not None:
            self._points(u, result)

    def _warp(self, u: Tensor) -> Tensor:
        """Warps the moving image, and gives the offset that it was warped by."""
        w = u
        if self._linear is not None and self._offset is not None:
            w = self._offset
            torch.bmm(self._linear, u.flatten(2), out=w.flatten(2))
        WARP.into(self._warped, self._moving, w, self._affine, *_WORDS)
        return w

    def _mask(self, w: Tensor) -> Tensor | None:
        if self._moving_mask is None:
            return self._fixed_mask
        words = "linear", "zeros", "auto"
        mask = WARP.into(self._both_masks, self._moving_mask, w, self._affine, *words)
        return mask if self._fixed_mask is None else mask.mul_(self._fixed_mask)

    def _add(self, number: int, mask: Tensor | None, scale: Tensor | None) -> None:
        """Adds one similarity's gradient, to the warped image, to what there is of others'."""
        assert self._of_warped is not None
        similarity, gradient = self._similarities[number]
        channels = similarity.channels or range(self._warped.shape[1])
        found = gradient(similarity.of(self._warped), mask)
        total = self._of_warped[:, channels.start : channels.stop]
        if scale is None:
            total.copy_(found)
        else:
            total.addcmul_(found, scale)

    def _to_field(self, of_warped: Tensor, w: Tensor, result: Tensor, spare: Tensor) -> None:
        of_w = result if self._linear is None else spare
        inputs = of_warped, self._moving, w, self._affine
        WARP_BACKWARD.into((None, of_w, None), *inputs, *_WORDS, [False, True, False])
        if self._linear is not None:
            torch.bmm(self._linear.mT, of_w.flatten(2), out=result.flatten(2))

    def _sizes(self, u: Tensor) -> Tensor:
        """The root mean square length of each similarity's gradient, (similarities, N, 1, ...)."""
        w = self._warp(u)
        mask, result, spare = self._mask(w), torch.empty_like(u), torch.empty_like(u)
        found = []
        for number, (_, gradient) in enumerate(self._similarities):
            if self._of_warped is None:
                of_warped = gradient(self._warped, mask)
            else:
                of_warped = self._of_warped.zero_()
                self._add(number, mask, None)
            self._to_field(of_warped, w, result, spare)
            every = tuple(range(1, u.ndim))
            found.append(result.square_().sum(1, keepdim=True).mean(every, keepdim=True).sqrt())
        return torch.stack(found)


class _Points:
    """The pull of landmarks, at the corners of the cells that they lie in.

    Smoothed by the Gaussian that every gradient is, it has its full length at the landmark.

    Args:
        landmarks: (N, K, d) each, with their moving points brought to the fixed image's voxels.
        u: (N, d, *spatial).
        size: (N, 1, 1), what a pull of weight 1 over one voxel comes to.
        sigma: of that Gaussian, voxels.
    """

    def __init__(self, landmarks: Landmarks, u: Tensor, size: Tensor, sigma: float) -> None:
        shape = u.new_tensor(u.shape[2:])
        places = landmarks.fixed.to(u).expand(len(u), -1, -1)
        self._apart = (landmarks.moving.to(u).expand(len(u), -1, -1) - places).mT
        # Half a voxel beyond the outermost ones is within the image.
        places = torch.minimum(places.clamp_min(0), shape - 1)
        first = torch.minimum(places.floor(), (shape - 2).clamp_min(0))
        strides = torch.tensor([math.prod(u.shape[axis + 3 :]) for axis in range(u.shape[1])])
        index, weight = [], []
        for corner in itertools.product((0, 1), repeat=u.shape[1]):
            at = torch.minimum(first + u.new_tensor(corner), shape - 1)
            index.append((at.long() * strides.to(at.device)).sum(2))
            weight.append((1 - (places - at).abs()).prod(2))
        self._shape = len(u), u.shape[1], len(index), places.shape[1]
        self._index = torch.cat(index, 1)[:, None].expand(-1, u.shape[1], -1)
        self._weight = torch.stack(weight, 1)[:, None]
        spread = max(1.0, (math.sqrt(2 * math.pi) * sigma) ** u.shape[1])
        self._pull = (landmarks.weight * spread) * size

    def __call__(self, u: Tensor, gradient: Tensor) -> None:
        """Adds the pull at ``u`` to a gradient."""
        corners = u.flatten(2).gather(2, self._index).view(self._shape)
        left = self._apart - (corners * self._weight).sum(2)
        pull = (left * self._pull)[:, :, None] * self._weight
        gradient.flatten(2).scatter_add_(2, self._index, pull.flatten(2))
