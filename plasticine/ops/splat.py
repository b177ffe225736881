"""``plasticine.splat``: add an image up where a displacement, and an affine, point."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from plasticine import backends, reference
from plasticine.ops import _autocast, _checks, _words
from plasticine.ops._derivative import Derivative, MaybeTensors
from plasticine.ops._kernels import Kernel, broadcast_batch
from plasticine.ops._operator import REGISTRY, Operator
from plasticine.ops.spline_coefficients import SPLINE_COEFFICIENTS
from plasticine.ops.warp import WARP, WARP_BACKWARD
from plasticine.ops.warp import check as check_warp


@_words.checks_inside
def splat(
    image: Tensor,
    displacement: Tensor,
    *,
    affine: Tensor | None = None,
    size: Sequence[int] | None = None,
    mode: str = "linear",
    padding: str = "border",
    prefilter: bool = True,
    backend: str = "auto",
    **_unknown: NoReturn,
) -> Tensor:
    """Adds every voxel of an image to where it points: the adjoint of ``warp``.

    With ``u`` the displacement, ``<splat(y, u), x> = <y, warp(x, u)>`` for every image ``x``: a
    voxel ``p`` of ``y`` is added to the voxels around ``p + u(p)``, or ``A p + t + u(p)``, with the
    weights with which ``warp`` reads them. It pushes forward what ``warp`` pulls back; the splat of
    ones counts how often ``warp`` reads each voxel. Nothing is normalised: with "border" and
    "reflection" the sum over all voxels is kept, in every mode, with "zeros" what falls outside is
    lost. A voxel whose coordinate is NaN is added nowhere.

    Args:
        image: ``y``, ``(N, C, *spatial)``, 2D or 3D, float32, float64, float16 or bfloat16; any
            strides. Half types are added up in float32 and rounded once.
        displacement: ``u``, ``(N, d, *spatial)`` in voxels, component ``i`` along spatial axis
            ``i``, on the image's grid. Of the image's dtype, or float32 with a half image.
        affine: ``(A | t)``, ``(N, d, d + 1)`` in voxels, of the displacement's dtype; None for the
            identity.
        size: the spatial size of the result, d numbers; None for the image's.
        mode: "linear"; "nearest" (ties to even; no gradient to the displacement); "cubic"; or
            "bspline": the weights of :func:`plasticine.warp` in that mode.
        padding: what becomes of a voxel that points outside: "zeros" (lost), "border" (added at the
            border) or "reflection" (about the centres of the outermost voxels).
        prefilter: of mode "bspline" alone: whether it is the adjoint of a ``warp`` that prefilters,
            by the adjoint of :func:`plasticine.spline_coefficients` (half types in float32); a NaN
            that is added somewhere then spreads to its whole channel. False leaves it out.
        backend: "auto", "cpu", "cuda", "triton" or "reference"; see :mod:`plasticine.backends`.

    Any of the three tensors may have a batch of 1 where the others have N. Under ``torch.autocast``
    they take the widest of their dtypes where they do not fit as they are.

    Returns:
        ``(N, C, *size)`` in the image's dtype. Differentiable with respect to the image, the
        displacement and the affine; the gradient to the image is ``warp``, and second derivatives
        exist where those of ``warp`` do.

    On a GPU the sums are made with atomics, whose order shows in the last bits; under
    ``torch.use_deterministic_algorithms`` they are made in fixed point and repeat bit for bit.

    Raises:
        TypeError: an argument is no tensor, or of a dtype that is not served; ``size`` is not a
            sequence of ints.
        ValueError: shapes, devices or options do not fit.
        RuntimeError: the backend asked for by name is missing or cannot serve the call.
    """
    if _unknown:
        _words.refuse(splat, _unknown)
    _checks.is_tensor(image, "image")
    _checks.is_tensor(displacement, "displacement")
    if affine is not None:
        _checks.is_tensor(affine, "affine")
    batch = displacement.shape[0]
    source = image
    if image.shape[0] != batch or (affine is not None and affine.shape[0] != batch):
        image, displacement, affine = broadcast_batch(image, displacement, affine)
    target = list(image.shape[2:]) if size is None else _size_of(size)
    if mode == "bspline":
        if _autocast.is_any_enabled():  # as the operator would, but before the sums
            image, displacement, affine = _autocast.widest(image, displacement, affine)
        # The operator takes float32 values for a half displacement, too.
        _checks.image_and_displacement(image, displacement)
    if mode == "bspline" and prefilter:
        check(image, displacement, affine, target, mode, padding)
        # In float32 at least: the sums are no results that may be rounded.
        precise = source.to(torch.promote_types(image.dtype, torch.float32)).expand(image.shape)
        sums = SPLAT(precise, displacement, affine, target, mode, padding, backend)
        return SPLINE_COEFFICIENTS(sums, padding, True, backend).to(image.dtype)
    return SPLAT(image, displacement, affine, target, mode, padding, backend)


def _size_of(size: Any) -> list[int]:
    try:
        return [operator.index(length) for length in size]
    except TypeError:
        raise TypeError(f"size must be a sequence of ints or None, got {size!r}") from None


def check(
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None,
    size: Sequence[int],
    mode: str,
    padding: str,
) -> None:
    """Raises unless the arguments fit together."""
    check_warp(image, displacement, affine, mode, padding)
    if image.shape[2:] != displacement.shape[2:]:
        raise ValueError(
            "image and displacement must have the same spatial size, got image of shape "
            f"{tuple(image.shape)} and displacement of shape {tuple(displacement.shape)}"
        )
    if len(size) != image.dim() - 2 or any(length < 0 for length in size):
        raise ValueError(
            f"size must be {image.dim() - 2} numbers, 0 or more, one per spatial axis of image of "
            f"shape {tuple(image.shape)}; got {tuple(size)}"
        )
    if 0 in size and 0 not in image.shape:
        raise ValueError(
            f"size {tuple(size)} has no voxels for those of image of shape {tuple(image.shape)}"
        )


def _results(
    image: Tensor, displacement: Tensor, affine: Tensor | None, size: Sequence[int], *_: Any
) -> Tensor:
    return image.new_empty((*image.shape[:2], *size))


def _gradient_of_warp(backend: str) -> Kernel:
    def serve(
        image: Tensor,
        displacement: Tensor,
        affine: Tensor | None,
        size: Sequence[int],
        mode: str,
        padding: str,
    ) -> Tensor:
        # Of the image of that warp, dtype and sizes alone are asked for.
        read = image.new_empty(()).expand(*image.shape[:2], *size)
        options = mode, padding, (True, False, False)
        return WARP_BACKWARD.serve[backend](image, read, displacement, affine, *options)[0]

    return serve


def _define(
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None,
    size: Sequence[int],
    mode: str,
    padding: str,
) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        # An inference tensor cannot be recorded; its copy can.
        image = image.clone() if image.is_inference() else image
        displacement = displacement.clone() if displacement.is_inference() else displacement
        if affine is not None and affine.is_inference():
            affine = affine.clone()
        return reference.splat(image, displacement, affine, size, mode, padding, False).contiguous()


def _gradients(
    grads: MaybeTensors, saved: MaybeTensors, options: Sequence[Any], needs: Sequence[bool]
) -> MaybeTensors:
    # <grad, splat(y, u)> = <y, warp(grad, u)>: derivatives are those of warp with the gradient for
    # its image. As operators of their own they can be differentiated further.
    (grad,), (image, displacement, affine), (_, *options, backend) = grads, saved, options
    found: list[Tensor | None] = [None, None, None]
    if needs[0]:
        found[0] = WARP(grad, displacement, affine, *options, backend)
    if needs[1] or needs[2]:
        wanted = [False, needs[1], needs[2]]
        inputs = image, grad, displacement, affine
        found[1:] = WARP_BACKWARD.from_autograd(*inputs, *options, backend, wanted)[1:]
    return found


SPLAT = REGISTRY["splat"] = Operator(
    "splat(Tensor image, Tensor displacement, Tensor? affine, SymInt[] size, str mode,"
    " str padding) -> Tensor",
    check=check,
    results=_results,
    derivative=Derivative(_gradients),
    choices={"mode": _checks.SAMPLING_MODES, "padding": _checks.PADDINGS},
    field=1,
    autocast=_autocast.widest,
    serve={
        **{backend: _gradient_of_warp(backend) for backend in backends.BACKENDS},
        "reference": _define,
    },
)
