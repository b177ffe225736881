"""Definition of ``compose``: the displacement of ``(id + u) o (id + v)``."""

from __future__ import annotations

from torch import Tensor

from plasticine.reference.warp import warp


def compose(u: Tensor, v: Tensor, padding: str = "border") -> Tensor:
    """``u(p + v(p)) + v(p)``, linear interpolation.

    Args:
        u: ``(N, d, *u_spatial)`` in voxels.
        v: ``(N, d, *spatial)`` in voxels.
        padding: how ``u`` continues outside its grid: "zeros", "border" or "reflection".

    Returns:
        ``(N, d, *spatial)`` in the dtype of ``u``.
    """
    # Half types are added in float32 and rounded once.
    if u.element_size() < 4:
        return (warp(u.float(), v.float(), None, "linear", padding) + v.float()).to(u.dtype)
    return warp(u, v, None, "linear", padding) + v
