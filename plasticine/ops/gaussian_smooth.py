"""``plasticine.gaussian_smooth``: images and fields smoothed by a Gaussian."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from plasticine import reference
from plasticine.ops import _autocast, _checks, _words
from plasticine.ops._derivative import Derivative, MaybeTensors
from plasticine.ops._kernels import call, contiguous_like
from plasticine.ops._operator import REGISTRY, Operator

# Of a wider window even the weights, which every call computes, would take long.
_WIDEST = 65536


@_words.checks_inside
def gaussian_smooth(
    images: Tensor,
    sigma: float | Sequence[float],
    *,
    backend: str = "auto",
    **_unknown: NoReturn,
) -> Tensor:
    """Smooths along every spatial axis by a Gaussian, the edge repeated beyond the border.

    The window is cut off at three standard deviations, rounded to whole voxels and one at least,
    and its weights sum to 1: ``scipy.ndimage.gaussian_filter`` with ``mode="nearest"`` and
    ``radius=round(3 * sigma)``.

    Args:
        images: ``(N, C, *spatial)``, 2D or 3D, float32, float64, float16 or bfloat16; any strides.
            Half types are computed in float32, and rounded once (under ``torch.autocast`` not
            rounded: the result is float32).
        sigma: the standard deviation in voxels, or one for each spatial axis, from 0, which leaves
            an axis as it is, to 65536.
        backend: "auto", "cpu", "cuda", "triton" or "reference"; see :mod:`plasticine.backends`.

    Returns:
        ``(N, C, *spatial)`` in the dtype of the images. Linear in them, and differentiable any
        number of times and in forward mode; the same bits every time. A NaN reaches the voxels
        whose windows hold it, and no other.

    Raises:
        TypeError: ``images`` is no tensor, or of a dtype that is not served; sigma is no number.
        ValueError: a shape or an option is not one of those above.
        RuntimeError: the backend asked for by name is missing or cannot serve the call.
    """
    if _unknown:
        _words.refuse(gaussian_smooth, _unknown)
    _checks.is_tensor(images, "images")
    ndim = _checks.image_alone(images, "images")
    return GAUSSIAN_SMOOTH(images, _sigma_of(sigma, ndim), False, backend)


def check(images: Tensor, sigma: Sequence[float], adjoint: bool = False) -> None:
    """Raises unless the arguments fit together."""
    _sigma_of(sigma, _checks.image_alone(images, "images"))


def _sigma_of(sigma: float | Sequence[float], ndim: int) -> list[float]:
    """The standard deviation along each spatial axis."""
    given: Any = sigma
    if given is _words.MISSING:
        raise TypeError("the argument sigma is missing, a number or one for each spatial axis")
    expected = f"sigma must be a number, or {ndim}, one per spatial axis"
    try:
        one = isinstance(given, int | float) or not hasattr(given, "__len__")
        sigmas = [float(given)] * ndim if one else [float(width) for width in given]
    except (TypeError, ValueError):
        raise TypeError(f"{expected}, got {sigma!r}") from None
    if len(sigmas) != ndim:
        raise ValueError(f"{expected}, got {sigma!r}")
    for width in sigmas:
        if not 0 <= width <= _WIDEST:
            raise ValueError(f"sigma must be from 0 to {_WIDEST} voxels; got {width}")
    return sigmas


def _results(images: Tensor, sigma: Sequence[float], adjoint: bool) -> Tensor:
    return contiguous_like(images)


def _serve_cuda(images: Tensor, sigma: Sequence[float], adjoint: bool) -> Tensor:
    result = contiguous_like(images)
    # What the axes, taken one after the other, leave for the next, which must not be rounded.
    accumulated = torch.promote_types(images.dtype, torch.float32)
    count = (2 if images.dtype != accumulated else 1) if images.dim() == 5 else 1
    scratch = images.new_empty((count, *images.shape), dtype=accumulated)
    call("cuda", "gaussian_smooth", images, images, result, scratch, sigma, adjoint)
    return result


def _define(images: Tensor, sigma: Sequence[float], adjoint: bool) -> Tensor:
    return reference.gaussian_smooth(images, sigma, adjoint).contiguous()


def _gradients(
    grads: MaybeTensors, saved: MaybeTensors, options: Sequence[Any], needs: Sequence[bool]
) -> MaybeTensors:
    sigma, adjoint, backend = options
    return (GAUSSIAN_SMOOTH(grads[0], sigma, not adjoint, backend),)


def _tangent(tangents: MaybeTensors, saved: MaybeTensors, options: Sequence[Any]) -> Tensor:
    return GAUSSIAN_SMOOTH(tangents[0], *options)


GAUSSIAN_SMOOTH = REGISTRY["gaussian_smooth"] = Operator(
    "gaussian_smooth(Tensor images, float[] sigma, bool adjoint) -> Tensor",
    check=check,
    results=_results,
    derivative=Derivative(_gradients, _tangent, saved=lambda inputs, results: ()),
    kernel="gaussian_smooth",
    autocast=_autocast.single,
    serve={"cuda": _serve_cuda, "reference": _define},
)
