"""``plasticine.warp``: sample an image where a displacement, and an affine, point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from plasticine import backends
from plasticine.ops import _autocast, _checks
from plasticine.ops._native_interface import MODE_CODES, PADDING_CODES, device_type
from plasticine.ops._operator import Operator, keep_for_tangents, map_over_batch
from plasticine.ops._warp_backends import BACKWARD, FORWARD, Gradients
from plasticine.ops._warp_double_backward import (
    differentiate_backward,
    require_second_derivative,
    tangent_of_result,
    tangents_of_gradients,
)
from plasticine.ops.spline_coefficients import spline_coefficients


def warp(
    image: Tensor,
    displacement: Tensor,
    *,
    affine: Tensor | None = None,
    mode: str = "linear",
    padding: str = "border",
    prefilter: bool = True,
    backend: str = "auto",
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
        "nearest", once in the cubic modes.

    Raises:
        TypeError: an argument is no tensor, or of a dtype that is not served.
        ValueError: shapes, devices or options do not fit.
        RuntimeError: the backend asked for by name is missing or cannot serve the call.
    """
    _checks.is_tensor(image, "image")
    _checks.is_tensor(displacement, "displacement")
    if affine is not None:
        _checks.is_tensor(affine, "affine")
    if _autocast.is_any_enabled():
        image, displacement, affine = _autocast.widest(image, displacement, affine)
    batch = displacement.shape[0]
    source = image
    if image.shape[0] != batch or (affine is not None and affine.shape[0] != batch):
        image, displacement, affine = broadcast_batch(image, displacement, affine)
    if mode == "bspline":
        # The operator takes float32 coefficients of a half image, too.
        _checks.image_and_displacement(image, displacement)
    if mode == "bspline" and prefilter:
        check(image, displacement, affine, mode, padding)
        # In float32 at least: the coefficients are no results that may be rounded.
        precise = source.to(torch.promote_types(source.dtype, torch.float32))
        precise = spline_coefficients(precise, padding=padding, backend=backend)
        precise = precise.expand(image.shape)
        return WARP(precise, displacement, affine, mode, padding, backend).to(image.dtype)
    return WARP(image, displacement, affine, mode, padding, backend)


def broadcast_batch(
    image: Tensor, displacement: Tensor, affine: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Views with one batch size where a batch of 1 meets N; others are left for the checks."""
    sizes = [x.shape[0] for x in (image, displacement, affine) if x is not None]
    batch = next((size for size in sizes if size != 1), 1)

    def view(x: Tensor) -> Tensor:
        return x.expand(batch, *x.shape[1:]) if x.shape[0] == 1 else x

    return view(image), view(displacement), None if affine is None else view(affine)


def check(
    image: Tensor, displacement: Tensor, affine: Tensor | None, mode: str, padding: str
) -> None:
    """Raises unless the arguments fit together."""
    if mode not in MODE_CODES:
        _checks.one_of(mode, "mode", tuple(MODE_CODES))
    if padding not in PADDING_CODES:
        _checks.one_of(padding, "padding", _checks.PADDINGS)
    ndim = _checks.image_and_displacement(image, displacement, coefficients=mode == "bspline")
    if affine is not None:
        _checks.affine_of(affine, displacement, ndim)


def _forward(
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None,
    mode: str,
    padding: str,
    backend: str,
) -> Tensor:
    check(image, displacement, affine, mode, padding)
    serve = FORWARD[backends.choose(backend, "warp", device_type(image))]
    return serve(image, displacement, affine, mode, padding)


def _forward_fake(
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None,
    mode: str,
    padding: str,
    backend: str,
) -> Tensor:
    check(image, displacement, affine, mode, padding)
    return image.new_empty(image.shape[:2] + displacement.shape[2:])


def _backward(
    grad: Tensor,
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None,
    mode: str,
    padding: str,
    backend: str,
    needs: list[bool],
) -> tuple[Tensor, ...]:
    """The gradients of image, displacement and affine; an empty tensor where not needed."""
    check(image, displacement, affine, mode, padding)
    _checks.gradient(grad, image.shape[:2] + displacement.shape[2:], image)
    gradients = _backward_unchecked(
        grad, image, displacement, affine, mode, padding, backend, needs
    )
    return tuple(image.new_empty(0) if x is None else x for x in gradients)


def _backward_unchecked(
    grad: Tensor,
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None,
    mode: str,
    padding: str,
    backend: str,
    needs: Sequence[bool],
) -> Gradients:
    serve = BACKWARD[backends.choose(backend, "warp", device_type(image))]
    return serve(grad, image, displacement, affine, mode, padding, needs)


def _backward_fake(
    grad: Tensor,
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None,
    mode: str,
    padding: str,
    backend: str,
    needs: list[bool],
) -> tuple[Tensor, ...]:
    check(image, displacement, affine, mode, padding)
    return tuple(
        x.new_empty(x.shape) if x is not None and need else image.new_empty(0)
        for x, need in zip((image, displacement, affine), needs, strict=True)
    )


class _Warp(torch.autograd.Function):
    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        return arguments[-1](*arguments[:-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:3])
        keep_for_tangents(ctx, *inputs[:3])
        ctx.options = inputs[3:6]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[:3]
        image, displacement, affine = WARP_BACKWARD.from_autograd(
            grad, *ctx.saved_tensors, *ctx.options, needs
        )
        return (
            image if needs[0] else None,
            displacement if needs[1] else None,
            affine if needs[2] else None,
            None,
            None,
            None,
            None,
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        mode, padding, _ = ctx.options
        require_second_derivative(mode)  # the same kernel's
        return tangent_of_result(tangents[:3], ctx.saved_tensors, (mode, padding, False))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        return map_over_batch(info, in_dims, arguments, 3)


class _WarpBackward(torch.autograd.Function):
    @staticmethod
    def forward(*arguments: Any) -> Any:
        return arguments[-1](*arguments[:-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:4])
        keep_for_tangents(ctx, *inputs[:4])
        ctx.options = inputs[4:7]
        ctx.found = inputs[7]

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        mode, padding, _ = ctx.options
        require_second_derivative(mode)
        # What stands for a gradient that was not asked for has no cotangent.
        directions = [x if found else None for x, found in zip(cotangents, ctx.found, strict=True)]
        results = differentiate_backward(
            directions,
            ctx.saved_tensors,
            (mode, padding, False),
            ctx.needs_input_grad[:4],
        )
        return (*results, None, None, None, None, None)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, ...]:
        mode, padding, _ = ctx.options
        require_second_derivative(mode)
        saved = ctx.saved_tensors
        of_grad: tuple[Tensor, ...] = ()
        if tangents[0] is not None:
            of_grad = WARP_BACKWARD(tangents[0], *saved[1:], *ctx.options, ctx.found)
        options = (mode, padding, False)
        return tangents_of_gradients(of_grad, tangents[1:4], saved, options, ctx.found)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        return map_over_batch(info, in_dims, arguments, 4)


WARP = Operator(
    "warp(Tensor image, Tensor displacement, Tensor? affine, str mode, str padding, str backend)"
    " -> Tensor",
    _forward,
    _forward_fake,
    _Warp,
    tensors=3,
)
WARP_BACKWARD = Operator(
    "warp_backward(Tensor grad, Tensor image, Tensor displacement, Tensor? affine, str mode,"
    " str padding, str backend, bool[3] needs) -> (Tensor, Tensor, Tensor)",
    _backward,
    _backward_fake,
    _WarpBackward,
    tensors=4,
    unchecked=_backward_unchecked,
)
