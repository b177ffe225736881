"""``plasticine.smoothness``: how much a field varies, or bends, in one number a sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from torch import Tensor

from plasticine import reference
from plasticine.ops import _checks, _words
from plasticine.ops._differentiable import differentiable, result_dtype
from plasticine.ops._kernels import call_cuda_with_partial_sums


@_words.checks_inside
def smoothness(
    v: Tensor,
    *,
    order: int = 1,
    scheme: str = "forward",
    spacing: Sequence[float] | None = None,
    backend: str = "auto",
    **_unknown: NoReturn,
) -> Tensor:
    """The diffusion energy ``sum_ij mean (d_j v_i)²``, or bending ``sum_ijk mean (d_j d_k v_i)²``.

    Of a field, linear in the position, ``v(p) = M p``, the first is the squared Frobenius norm of M
    and the second 0. Each mixed second derivative counts twice, for jk and kj.

    Args:
        v: ``(N, d, *spatial)``, 2D or 3D, float32, float64, float16 or bfloat16: a displacement or
            velocity in any unit, which ``spacing`` does not change.
        order: of the derivatives: 1 for diffusion, 2 for bending.
        scheme: the finite differences. "forward": ``v(p + 1) - v(p)``, for mixed derivatives along
            both axes, and ``[1, -2, 1]`` along one axis twice; each mean is over the places where
            the difference exists, as in VoxelMorph's and TransMorph's losses. "central":
            ``(v(p + 1) - v(p - 1)) / 2``, for mixed derivatives along both axes, and ``[1, -2, 1]``
            along one axis twice; all means are over the voxels with a neighbour on both sides along
            all axes, as in MONAI's losses since 1.6. Its first order does not see what alternates
            from voxel to voxel.
        spacing: the voxel size along each spatial axis, by which derivatives are divided, once or
            twice; None for 1.
        backend: "auto", "cpu", "cuda", "triton" or "reference"; see :mod:`plasticine.backends`.

    An axis that is too short for a difference contributes nothing: of one voxel and, for "central"
    and derivatives along one axis twice, of two. Such an axis is then not cropped by "central"
    either. Under ``torch.autocast`` half fields are taken in float32.

    Returns:
        ``(N,)``: float64 of a float64 field, otherwise float32; 0 of a field without differences.
        Differentiable twice, and in forward mode; the latter two are the definition's, whatever
        the backend. The same bits every time.

    Raises:
        TypeError: ``v`` is no tensor or of a dtype that is not served, or the order is no int.
        ValueError: a shape or an option is not one of those above.
        RuntimeError: the backend asked for by name is missing or cannot serve the call.

    Source: B. Fischer, J. Modersitzki, "Fast diffusion registration", AMS Contemporary Mathematics
    313 (2002); D. Rueckert et al., "Nonrigid registration using free-form deformations:
    application to breast MR images", IEEE Transactions on Medical Imaging 18 (1999), for bending.
    """
    if _unknown:
        _words.refuse(smoothness, _unknown)
    _checks.is_tensor(v, "v")
    ndim = _checks.field(v, "v")
    order = _checks.count_of(order, "order")
    return SMOOTHNESS(v, order, scheme, _checks.spacing_of(spacing, ndim), backend)


def check(v: Tensor, order: int, scheme: str, spacing: Sequence[float]) -> None:
    """Raises unless the arguments fit together."""
    if order not in (1, 2):
        raise ValueError(f"order must be 1 (diffusion) or 2 (bending), got {order}")
    _checks.spacing_of(spacing, _checks.field(v, "v"))


def _shape(v: Tensor, *_: Any) -> Sequence[int]:
    return (v.shape[0],)


def _serve_cuda(v: Tensor, *options: Any) -> Tensor:
    result = v.new_empty(v.shape[0], dtype=result_dtype(v))
    return call_cuda_with_partial_sums("smoothness_forward", v, result, *options)


def _double_backward(
    directions: Sequence[Tensor | None], grad: Tensor, v: Tensor, *options: Any
) -> Sequence[Tensor | None]:
    *options_, needs = options

    def define(v: Tensor) -> Tensor:
        return reference.smoothness(v, *options_)

    return reference.double_backward(define, (v,), directions, grad, needs)


SMOOTHNESS, SMOOTHNESS_BACKWARD, SMOOTHNESS_DOUBLE_BACKWARD = differentiable(
    "smoothness(Tensor v, int order, str scheme, float[] spacing) -> Tensor",
    function="smoothness",
    check=check,
    shape=_shape,
    accumulated=True,
    definition=reference.smoothness,
    choices={"scheme": ("forward", "central")},
    serve={"cuda": _serve_cuda},
    double_backward=_double_backward,
)
