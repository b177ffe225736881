"""``plasticine.warp``: sample an image where a displacement, and an affine, point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from plasticine import reference
from plasticine.ops import _autocast, _checks, _words
from plasticine.ops._differentiable import differentiable
from plasticine.ops._kernels import broadcast_batch, call, contiguous_like
from plasticine.ops._scatter import ScatterBuffers, accumulator_of
from plasticine.ops.spline_coefficients import spline_coefficients

# The affine's gradient is summed by this many blocks at most, of this many threads, then here.
_CUDA_BLOCKS = 1024
_CUDA_THREADS = 256


@_words.checks_inside
def warp(
    image: Tensor,
    displacement: Tensor,
    *,
    affine: Tensor | None = None,
    mode: str = "linear",
    padding: str = "border",
    prefilter: bool = True,
    backend: str = "auto",
    **_unknown: NoReturn,
) -> Tensor:
    """Samples an image at ``p + u(p)``, or at ``A p + t + u(p)``, for every voxel ``p``.

    The result equals ``torch.nn.functional.grid_sample(..., align_corners=True)`` at these places,
    gradient conventions at the boundary included, without building a grid. A NaN coordinate gives
    NaN in that voxel's channels and nowhere else.

    Args:
        image: ``(N, C, *spatial)``, 2D or 3D, float32, float64, float16 or bfloat16; any strides.
        displacement: ``u``, ``(N, d, *output_spatial)`` in voxels, component ``i`` along spatial
            axis ``i``. It sets the size of the result, which may differ from the image's. Of the
            image's dtype, or float32 with a half image; coordinates are computed in float32 or
            wider.
        affine: ``(A | t)``, ``(N, d, d + 1)`` in voxels, of the displacement's dtype; None for the
            identity.
        mode: "linear"; "nearest" (ties to even; no gradient to the displacement); "cubic", the
            cubic convolution of Keys (1981) with a = -0.75, which is ``grid_sample``'s "bicubic",
            in 2D and 3D; or "bspline", the cubic B-spline, the smoothest of them.
        padding: how the image continues outside: "zeros", "border" (clamped) or "reflection"
            (about the centres of its outermost voxels). In mode "cubic" every voxel that is read
            is padded by itself, as ``grid_sample`` does; in mode "bspline" the coordinate is
            padded as in mode "linear", and with "zeros" every coefficient by itself.
        prefilter: of mode "bspline" alone: whether the spline passes through the image at every
            voxel, by :func:`plasticine.spline_coefficients` (half types keep its result in
            float32); a NaN in the image then spreads to its whole channel. False takes the image
            for the spline's coefficients.
        backend: "auto", "cpu", "cuda", "triton" or "reference"; see :mod:`plasticine.backends`.

    Any of the three tensors may have a batch of 1 where the others have N. Under ``torch.autocast``
    they take the widest of their dtypes where they do not fit as they are.

    Returns:
        ``(N, C, *output_spatial)`` in the image's dtype. Differentiable with respect to the
        image, the displacement and the affine: twice and in forward mode in modes "linear" and
        "nearest", once in the cubic modes. Second derivatives and the forward mode are the
        definition's in plain PyTorch, whatever the backend: tens of times slower than the first.

    Raises:
        TypeError: an argument is no tensor, or of a dtype that is not served.
        ValueError: shapes, devices or options do not fit.
        RuntimeError: the backend asked for by name is missing or cannot serve the call.
    """
    if _unknown:
        _words.refuse(warp, _unknown)
    if (
        (type(image) is not Tensor or type(displacement) is not Tensor)
        or not image.dim()
        or not displacement.dim()
    ):  # asked here, as the two calls would take a thirtieth of a small warp
        _checks.is_tensor(image, "image")
        _checks.is_tensor(displacement, "displacement")
    if affine is not None:
        _checks.is_tensor(affine, "affine")
    batch = displacement.shape[0]
    source = image
    if image.shape[0] != batch or (affine is not None and affine.shape[0] != batch):
        image, displacement, affine = broadcast_batch(image, displacement, affine)
    if mode == "bspline":
        if _autocast.is_any_enabled():  # as the operator would, but before the coefficients
            image, displacement, affine = _autocast.widest(image, displacement, affine)
        # The operator takes float32 coefficients of a half image, too.
        _checks.image_and_displacement(image, displacement)
    if mode == "bspline" and prefilter:
        check(image, displacement, affine, mode, padding)
        # In float32 at least: the coefficients are no results that may be rounded.
        precise = source.to(torch.promote_types(image.dtype, torch.float32))
        precise = spline_coefficients(precise, padding=padding, backend=backend)
        precise = precise.expand(image.shape)
        return WARP(precise, displacement, affine, mode, padding, backend).to(image.dtype)
    return WARP(image, displacement, affine, mode, padding, backend)


def check(
    image: Tensor, displacement: Tensor, affine: Tensor | None, mode: str, padding: str
) -> None:
    """Raises unless the arguments fit together."""
    ndim = _checks.image_and_displacement(image, displacement, coefficients=mode == "bspline")
    if affine is not None:
        _checks.affine_of(affine, displacement, ndim)


def _shape(image: Tensor, displacement: Tensor, *options: Any) -> Sequence[int] | None:
    # Unpacked, which takes a quarter of the time of slices.
    batch, channels, *image_size = image.shape
    _, _, *size = displacement.shape
    return None if image_size == size else (batch, channels, *size)


def _define(
    image: Tensor, displacement: Tensor, affine: Tensor | None, mode: str, padding: str
) -> Tensor:
    return reference.warp(image, displacement, affine, mode, padding, prefilter=False)


def _cuda_backward(
    grad: Tensor,
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None,
    mode: str,
    padding: str,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    buffers = ScatterBuffers(grad, image.shape, mode, needs[0])
    grad_displacement = contiguous_like(displacement) if needs[1] else None
    partial = None
    if affine is not None and needs[2]:
        blocks = min(max(-(-displacement.shape[2:].numel() // _CUDA_THREADS), 1), _CUDA_BLOCKS)
        shape = (affine.shape[0], blocks, *affine.shape[1:])
        partial = image.new_empty(shape, dtype=accumulator_of(image))
    gradients = (*buffers.arguments, grad_displacement, partial)
    inputs = image, displacement, affine
    call("cuda", "warp_backward", displacement, grad, *inputs, gradients, mode, padding)
    grad_affine = None
    if affine is not None and partial is not None:
        grad_affine = partial.sum(1, dtype=torch.float64).to(affine.dtype)
    return buffers.total(), grad_displacement, grad_affine


def _double_backward(
    directions: Sequence[Tensor | None],
    grad: Tensor,
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None,
    mode: str,
    padding: str,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    inputs = image, displacement, affine
    return reference.warp_double_backward(directions, grad, *inputs, mode, padding, False, needs)


def _check_double_backward(mode: str, padding: str) -> None:
    if mode in _checks.CUBIC_MODES:
        raise RuntimeError(
            f"plasticine.warp has no second derivative in mode {mode!r}: its gradient cannot be "
            "differentiated again (create_graph=True followed by a second backward)"
        )


WARP, WARP_BACKWARD, WARP_DOUBLE_BACKWARD = differentiable(
    "warp(Tensor image, Tensor displacement, Tensor? affine, str mode, str padding) -> Tensor",
    function="warp",
    check=check,
    shape=_shape,
    definition=_define,
    choices={"mode": _checks.SAMPLING_MODES, "padding": _checks.PADDINGS},
    field=1,
    autocast=_autocast.widest,
    serve_backward={"cuda": _cuda_backward},
    double_backward=_double_backward,
    check_double_backward=_check_double_backward,
)
