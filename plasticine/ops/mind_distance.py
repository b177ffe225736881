"""``plasticine.mind_distance``: how far apart two images are whatever shows in them how bright."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from plasticine import reference
from plasticine.ops import _checks, _words
from plasticine.ops._differentiable import differentiable, result_dtype
from plasticine.ops._kernels import broadcast_batch
from plasticine.ops._masks import check_mask, mask_of

KINDS = ("charbonnier", "squared")

# Of how many voxels a GPU holds the descriptors at a time, beside a halo; at least so many planes.
_SCRATCH_VOXELS = 2**19
_LEAST_PLANES = 4
# Of how many blocks it holds the sums.
_SCRATCH_SUMS = 4096


@_words.checks_inside
def mind_distance(
    x: Tensor,
    y: Tensor,
    *,
    dilations: Sequence[int] = (1, 2),
    sigma: float = 0.8,
    kind: str = "charbonnier",
    epsilon: float = 1e-2,
    mask: Tensor | None = None,
    backend: str = "auto",
    **_unknown: NoReturn,
) -> Tensor:
    """How far apart the MIND descriptors of two images are, which may be of two modalities.

    A descriptor has a channel for each pair of patches, of the voxel and its neighbours along the
    axes, that are not opposite (the self-similarity context, and the voxel itself): ``exp(-D / V)``
    with D the Gaussian-weighted squared difference of the two patches and V its mean over the
    pairs, but at least a thousandth of the image's mean V. Edges are repeated beyond the border.
    They are those of ``plasticine.structure.MIND``; here no tensor of their 18 channels for each
    dilation (8 in 2D) is made.

    Args:
        x: ``(N, C, *spatial)``, 2D or 3D, float32, float64, float16 or bfloat16; every channel is
            an image of its own.
        y: of the shape and dtype of ``x``.
        dilations: how many voxels away the neighbours are, one set of channels each.
        sigma: Gaussian width of the patches in voxels; they end at three of it.
        kind: what a difference d of two descriptors counts: "charbonnier",
            ``sqrt(d ** 2 + epsilon ** 2)``, or "squared", ``d ** 2``.
        epsilon: where "charbonnier" turns from squared to absolute.
        mask: ``(N or 1, 1, *spatial)``, bool or floating: how much each voxel counts, 0 or more.
            It has no gradient. None counts all alike.
        backend: "auto", "cpu", "cuda", "triton" or "reference"; see :mod:`plasticine.backends`.

    Either image may have a batch of 1 where the other has N. Under ``torch.autocast`` half images
    are compared in float32.

    Returns:
        ``(N,)``, the mean over the channels and, as the mask weighs them, the voxels; float64 for
        float64 images, else float32. 0, with a gradient of 0, where nothing counts; NaN where a
        sample has a value that is not finite. Differentiable once with respect to both images, by
        the same bits every time.

    Raises:
        TypeError: an argument is no tensor, or of a dtype that is not served.
        ValueError: shapes, devices or options do not fit.
        RuntimeError: the backend asked for by name is missing or cannot serve the call.

    Source: M. P. Heinrich et al., "MIND: modality independent neighbourhood descriptor for
    multi-modal deformable registration", Medical Image Analysis 16 (2012), and "Towards realtime
    multimodal fusion for image-guided interventions using self-similarities", MICCAI 2013.
    """
    if _unknown:
        _words.refuse(mind_distance, _unknown)
    _checks.is_tensor(x, "x")
    _checks.is_tensor(y, "y")
    mask = mask_of(mask, x)
    x, y, mask = broadcast_batch(x, y, mask)
    distances = [_checks.count_of(dilation, "dilations") for dilation in dilations]
    return MIND_DISTANCE(x, y, mask, distances, float(sigma), kind, float(epsilon), backend)


def check(
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    dilations: Sequence[int],
    sigma: float,
    kind: str,
    epsilon: float,
) -> None:
    """Raises unless the arguments fit together."""
    _checks.image_alone(x, "x")
    _checks.image_alone(y, "y")
    if x.dtype != y.dtype:
        raise TypeError(f"x and y must have one dtype, got x {x.dtype} and y {y.dtype}")
    _checks.same_device(x, "x", y, "y")
    _checks.same_batch(x, "x", y, "y")
    if x.shape != y.shape:
        raise ValueError(
            "x must have shape (N, C, *spatial) and y must have shape of x, got x of shape "
            f"{tuple(x.shape)} and y of shape {tuple(y.shape)}"
        )
    check_mask(mask, x)
    if not dilations or min(dilations) < 1:
        raise ValueError(f"dilations must be one or more numbers of 1 or more, got {dilations}")
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma must be positive and finite, in voxels, got {sigma}")
    if not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon must be positive and finite, got {epsilon}")


def _shape(x: Tensor, *_: Any) -> Sequence[int]:
    return (x.shape[0],)


def _scratch(
    x: Tensor, y: Tensor, mask: Tensor | None, dilations: Sequence[int], sigma: float, *_: Any
) -> Tensor:
    """What a GPU holds of an image at a time: some planes of three times the channels.

    In numbers of 64 bits: the sums of every image, its gradients where they are not summed in its
    own type, and then the planes. A CPU's kernels do not touch it.
    """
    images, planes = x.shape[0] * x.shape[1], x.shape[2]
    plane = x.shape[3:].numel()
    channels = 18 if x.dim() == 5 else 8
    radius = max(1, round(3 * sigma))
    halo = 2 * (max(dilations) + 2 * radius)
    held = min(planes, halo + max(_LEAST_PLANES, _SCRATCH_VOXELS // max(plane, 1) - halo))
    values = 3 * channels * held * plane
    if x.element_size() == 2:
        values += 2 * x.numel()
    size = result_dtype(x).itemsize
    sums = images * (4 * len(dilations) + 2) + _SCRATCH_SUMS + 2 * radius + 1
    return x.new_empty(sums + -(-values * size // 8), dtype=torch.float64)


MIND_DISTANCE, MIND_DISTANCE_BACKWARD, _ = differentiable(
    "mind_distance(Tensor x, Tensor y, Tensor? mask, int[] dilations, float sigma, str kind,"
    " float epsilon) -> Tensor",
    function="mind_distance",
    check=check,
    shape=_shape,
    scratch=_scratch,
    accumulated=True,
    constants=1,
    definition=reference.mind_distance,
    choices={"kind": KINDS},
)
