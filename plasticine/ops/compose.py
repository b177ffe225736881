"""``plasticine.compose``: one displacement for two transforms in a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from torch import Tensor

from plasticine import reference
from plasticine.ops import _checks, _words
from plasticine.ops._differentiable import differentiable
from plasticine.ops._kernels import broadcast_batch, call, contiguous_like, contiguous_rows
from plasticine.ops._scatter import ScatterBuffers


@_words.checks_inside
def compose(
    u: Tensor, v: Tensor, *, padding: str = "border", backend: str = "auto", **_unknown: NoReturn
) -> Tensor:
    """The displacement of ``(id + u) o (id + v)``: ``u(p + v(p)) + v(p)``.

    Warping by it equals warping by ``u`` first and the result by ``v``, but interpolates once.

    Args:
        u: ``(N, d, *u_spatial)`` in voxels, 2D or 3D, float32, float64, float16 or bfloat16.
        v: ``(N, d, *spatial)`` in voxels, of the dtype of ``u``; its grid may differ in size.
        padding: how ``u`` continues outside its grid: "border", "zeros" or "reflection". Projects
            disagree here, and after several compositions by voxels: MONAI, VoxelMorph and FireANTs
            use zeros.
        backend: "auto", "cpu", "cuda", "triton" or "reference"; see :mod:`plasticine.backends`.

    Either may have a batch of 1 where the other has N. Under ``torch.autocast`` half fields are
    composed, and returned, in float32.

    Returns:
        ``(N, d, *spatial)`` in the dtype of ``u``. Differentiable twice with respect to both, and
        in forward mode; the latter two are the definition's, whatever the backend.

    Raises:
        TypeError: an argument is no tensor, or of a dtype that is not served.
        ValueError: shapes, devices or options do not fit.
        RuntimeError: the backend asked for by name is missing or cannot serve the call.
    """
    if _unknown:
        _words.refuse(compose, _unknown)
    _checks.is_tensor(u, "u")
    _checks.is_tensor(v, "v")
    if u.shape[0] != v.shape[0]:
        u, v = broadcast_batch(u, v)
    return COMPOSE(u, v, padding, backend)


def check(u: Tensor, v: Tensor, padding: str) -> None:
    """Raises unless the arguments fit together."""
    ndim = _checks.field(u, "u")
    if _checks.field(v, "v") != ndim:
        raise ValueError(
            "u and v must have the same number of spatial axes, got u of shape "
            f"{tuple(u.shape)} and v of shape {tuple(v.shape)}"
        )
    if u.dtype != v.dtype:
        raise TypeError(f"u and v must have one dtype, got u {u.dtype} and v {v.dtype}")
    _checks.same_device(u, "u", v, "v")
    _checks.same_batch(u, "u", v, "v")
    _checks.something_to_sample(u, "u", v, "v")


def _cuda_forward(u: Tensor, v: Tensor, padding: str) -> Tensor:
    result = contiguous_like(v)
    call("cuda", "compose_forward", v, contiguous_rows(u), v, result, padding)
    return result


def _cuda_backward(
    grad: Tensor, u: Tensor, v: Tensor, padding: str, needs: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None]:
    buffers = ScatterBuffers(grad, u.shape, "linear", needs[0])
    grad_v = contiguous_like(v) if needs[1] else None
    gradients = (*buffers.arguments, grad_v)
    call("cuda", "compose_backward", v, grad, contiguous_rows(u), v, gradients, padding)
    return buffers.total(), grad_v


def _double_backward(
    directions: Sequence[Tensor | None],
    grad: Tensor,
    u: Tensor,
    v: Tensor,
    padding: str,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    # A warp of u that adds its field.
    return reference.warp_double_backward(
        (*directions, None), grad, u, v, None, "linear", padding, True, (*needs, False)
    )[:3]


COMPOSE, COMPOSE_BACKWARD, COMPOSE_DOUBLE_BACKWARD = differentiable(
    "compose(Tensor u, Tensor v, str padding) -> Tensor",
    function="compose",
    check=check,
    like=1,
    definition=reference.compose,
    choices={"padding": _checks.PADDINGS},
    field=1,
    serve={"cuda": _cuda_forward},
    serve_backward={"cuda": _cuda_backward},
    double_backward=_double_backward,
)
