"""``plasticine.spline_coefficients``: the cubic B-spline that passes through an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from plasticine import reference
from plasticine.ops import _autocast, _checks, _words
from plasticine.ops._derivative import Derivative, MaybeTensors
from plasticine.ops._kernels import Kernel, call, contiguous_like
from plasticine.ops._operator import REGISTRY, Operator


@_words.checks_inside
def spline_coefficients(
    image: Tensor, *, padding: str = "border", backend: str = "auto", **_unknown: NoReturn
) -> Tensor:
    """The coefficients ``c`` of the cubic B-spline that equals the image at every voxel.

    Per spatial axis, ``(c[i-1] + 4 c[i] + c[i+1]) / 6`` is the image at voxel ``i`` (Unser,
    Aldroubi and Eden, 1991). This is solved exactly, not by a truncated filter. Warp the result
    with ``plasticine.warp(c, u, mode="bspline", padding=padding, prefilter=False)``: worthwhile
    where one image is warped many times.

    Args:
        image: ``(N, C, *spatial)``, 2D or 3D, float32, float64, float16 or bfloat16; any strides.
            Half types are computed in float32, and rounded once (under ``torch.autocast`` not
            rounded: the result is float32).
        padding: the coefficients beyond the edge: "zeros" (0), "border" (that of the edge, which
            is ``scipy.ndimage``'s "reflect") or "reflection" (the mirror image about the edge
            voxel's centre, ``scipy.ndimage``'s "mirror").
        backend: "auto", "cpu", "cuda", "triton" or "reference"; see :mod:`plasticine.backends`.

    Returns:
        ``(N, C, *spatial)`` in the dtype of the image. Linear in the image, and differentiable any
        number of times and in forward mode. Every coefficient depends on every voxel, so a NaN or
        an infinity in a channel of the image leaves nothing finite in that channel, and no trace
        in any other.

    Raises:
        TypeError: ``image`` is no tensor, or of a dtype that is not served.
        ValueError: a shape or an option is not one of those above.
        RuntimeError: the backend asked for by name is missing or cannot serve the call.
    """
    if _unknown:
        _words.refuse(spline_coefficients, _unknown)
    _checks.is_tensor(image, "image")
    return SPLINE_COEFFICIENTS(image, padding, False, backend)


def check(image: Tensor, padding: str, adjoint: bool = False) -> None:
    """Raises unless the arguments fit together."""
    _checks.image_alone(image, "image")


def _results(image: Tensor, padding: str, adjoint: bool) -> Tensor:
    return contiguous_like(image)


def _compiled(backend: str) -> Kernel:
    def serve(image: Tensor, padding: str, adjoint: bool) -> Tensor:
        result = contiguous_like(image)
        # Where half types are kept between the axes, which are solved one after the other.
        half = image.dtype in (torch.float16, torch.bfloat16)
        scratch = image.new_empty(image.shape, dtype=torch.float32) if half else None
        call(backend, "spline_coefficients", image, image, result, scratch, padding, adjoint)
        return result

    return serve


def _define(image: Tensor, padding: str, adjoint: bool) -> Tensor:
    return reference.spline_coefficients(image, padding, adjoint).contiguous()


def _gradients(
    grads: MaybeTensors, saved: MaybeTensors, options: Sequence[Any], needs: Sequence[bool]
) -> MaybeTensors:
    padding, adjoint, backend = options
    return (SPLINE_COEFFICIENTS(grads[0], padding, not adjoint, backend),)


def _tangent(tangents: MaybeTensors, saved: MaybeTensors, options: Sequence[Any]) -> Tensor:
    return SPLINE_COEFFICIENTS(tangents[0], *options)


SPLINE_COEFFICIENTS = REGISTRY["spline_coefficients"] = Operator(
    "spline_coefficients(Tensor image, str padding, bool adjoint) -> Tensor",
    check=check,
    results=_results,
    derivative=Derivative(_gradients, _tangent, saved=lambda inputs, results: ()),
    choices={"padding": _checks.PADDINGS},
    kernel="spline_coefficients",
    autocast=_autocast.single,
    serve={"cpu": _compiled("cpu"), "cuda": _compiled("cuda"), "reference": _define},
)
