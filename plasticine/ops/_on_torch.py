"""Similarities on PyTorch alone: they complete the set, and have no kernels of their own.

They take what the others take (:func:`plasticine.lncc`), on any device and under every transform of
PyTorch's, and differentiate by autograd.
"""

from __future__ import annotations

import math
from typing import NoReturn

from torch import Tensor

from plasticine import reference
from plasticine.ops import _autocast, _checks, _words
from plasticine.ops._kernels import broadcast_batch
from plasticine.ops._masks import check_mask, mask_of


@_words.checks_inside
def sum_of_squared_differences(
    x: Tensor, y: Tensor, *, mask: Tensor | None = None, **_unknown: NoReturn
) -> Tensor:
    """``sum mask (x - y)²`` over channels and voxels: 0 where the images are alike.

    Args:
        x: ``(N, C, *spatial)``, 2D or 3D, float32, float64, float16 or bfloat16.
        y: of the shape and dtype of ``x``. Either may have a batch of 1 where the other has N.
        mask: ``(N or 1, 1, *spatial)``, bool or floating: how much each voxel counts, 0 or more.
            It has no gradient. None: all count.

    Returns:
        ``(N,)``: float64 of float64 images, otherwise float32; 0 where nothing counts. On PyTorch
        alone, whatever the device; differentiable any number of times.

    Raises:
        TypeError: an argument is no tensor, or of a dtype that is not served.
        ValueError: shapes or devices do not fit.
    """
    if _unknown:
        _words.refuse(sum_of_squared_differences, _unknown)
    x, y, mask = _checked(x, y, mask)
    return reference.sum_of_squared_differences(x, y, mask)


@_words.checks_inside
def normalized_gradient_field(
    x: Tensor, y: Tensor, *, epsilon: float = 0.01, mask: Tensor | None = None, **_unknown: NoReturn
) -> Tensor:
    """How parallel the edges of two images are: 1 where they are, whatever the contrast.

    The mean over what counts of ``<a, b>² / ((|a|² + epsilon²) (|b|² + epsilon²))``, a and b being
    the gradients of the images by central differences (one-sided at the border). Where either is
    faint beside epsilon the images count as unlike.

    Args:
        x: ``(N, C, *spatial)``, 2D or 3D, float32, float64, float16 or bfloat16.
        y: of the shape and dtype of ``x``. Either may have a batch of 1 where the other has N.
        epsilon: the noise's difference between neighbouring voxels, in the unit of the images;
            above 0. The default is for images from 0 to 1.
        mask: ``(N or 1, 1, *spatial)``, bool or floating: how much each voxel counts, 0 or more.
            It has no gradient. None: all count.

    Returns:
        ``(N,)`` from 0 to 1: float64 of float64 images, otherwise float32; 0 where nothing counts.
        On PyTorch alone, whatever the device; differentiable any number of times.

    Raises:
        TypeError: an argument is no tensor, or of a dtype that is not served.
        ValueError: shapes, devices or epsilon do not fit.

    Source: E. Haber, J. Modersitzki, "Intensity gradient based registration and fusion of
    multi-modal images", MICCAI 2006.
    """
    if _unknown:
        _words.refuse(normalized_gradient_field, _unknown)
    x, y, mask = _checked(x, y, mask)
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ValueError(f"epsilon must be positive and finite, got {epsilon}")
    return reference.normalized_gradient_field(x, y, epsilon, mask)


@_words.checks_inside
def correlation_ratio(
    x: Tensor, y: Tensor, *, bins: int = 32, mask: Tensor | None = None, **_unknown: NoReturn
) -> Tensor:
    """How far ``y`` is a function of ``x``, whatever the function: 1 where it is one.

    The share of the variance of ``y`` that its means over bins of the intensities of ``x`` explain,
    ``1 - (variance within the bins) / (variance of y)``, of each channel, then their mean. Each
    voxel belongs to the four bins around its intensity in x by the cubic B-spline (Parzen), which
    makes the ratio smooth, and a little less than that of sharp bins.

    Args:
        x: ``(N, C, *spatial)``, 2D or 3D, float32, float64, float16 or bfloat16: what is binned.
        y: of the shape and dtype of ``x``: what is explained. Either may have a batch of 1 where
            the other has N.
        bins: between the least and the greatest intensity of ``x`` that counts; 2 or more.
        mask: ``(N or 1, 1, *spatial)``, bool or floating: how much each voxel counts, 0 or more.
            It has no gradient. None: all count.

    Returns:
        ``(N,)`` from 0 to 1: float64 of float64 images, otherwise float32; 0 where ``y`` is flat or
        nothing counts. On PyTorch alone, whatever the device; differentiable with respect to both.

    Raises:
        TypeError: an argument is no tensor, or of a dtype that is not served.
        ValueError: shapes, devices or the bins do not fit.

    Source: A. Roche, G. Malandain, X. Pennec, N. Ayache, "The correlation ratio as a new similarity
    measure for multimodal image registration", MICCAI 1998.
    """
    if _unknown:
        _words.refuse(correlation_ratio, _unknown)
    x, y, mask = _checked(x, y, mask)
    if _checks.count_of(bins, "bins") < 2:
        raise ValueError(f"bins must be 2 or more, got {bins}")
    return reference.correlation_ratio(x, y, bins, mask)


def _checked(x: Tensor, y: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The images of one batch size, and the mask; raises unless they fit together."""
    for image, name in ((x, "x"), (y, "y")):
        _checks.is_tensor(image, name)
        _checks.image_alone(image, name)
    if x.dtype != y.dtype:
        raise TypeError(f"x and y must have one dtype, got x {x.dtype} and y {y.dtype}")
    _checks.same_device(x, "x", y, "y")
    if _autocast.is_any_enabled():
        x, y = _autocast.single(x, y)
    x, y = broadcast_batch(x, y)
    _checks.same_batch(x, "x", y, "y")
    if x.shape != y.shape:
        raise ValueError(
            "x must have shape (N, C, *spatial) and y must have shape of x, got x of shape "
            f"{tuple(x.shape)} and y of shape {tuple(y.shape)}"
        )
    mask = mask_of(mask, x)
    if mask is not None and len(mask) == 1:
        mask = mask.expand(len(x), *mask.shape[1:])
    check_mask(mask, x)
    return x, y, mask
