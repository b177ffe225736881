"""Definition of ``invert``: the displacement that undoes another, by fixed-point iteration."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticine.reference.splat import splat
from plasticine.reference.warp import warp


def invert(
    displacement: Tensor, tolerance: float, iterations: int, padding: str = "border"
) -> tuple[Tensor, Tensor, Tensor]:
    """Iterates ``w <- w - t (w + u(p + w))`` from ``w = -u``, in every voxel until it converges.

    The relaxation ``t`` is 1, the fixed-point iteration itself, and is halved while a voxel's
    residual does not shrink.

    Args:
        displacement: ``u``, ``(N, d, *spatial)`` in voxels.
        tolerance: the residual's norm, in voxels, below which a voxel is left as it is.
        iterations: the most steps.
        padding: how ``u`` continues outside its grid: "zeros", "border" or "reflection".

    Returns:
        ``w`` in the dtype of ``u``, NaN where an iterate meets no finite number; the largest norm
        of the residual of each sample, ``(N,)`` float32 or wider, NaN where any is; the most steps
        that a voxel of each sample took, ``(N,)`` int64.
    """
    precise = displacement.to(torch.promote_types(displacement.dtype, torch.float32))
    batch = precise.shape[0]
    used = torch.zeros(batch, dtype=torch.int64, device=precise.device)
    inverse = torch.where(precise.isfinite(), -precise, 0.0)
    before = torch.full_like(precise[:, :1], torch.inf)
    relaxation = torch.ones_like(before)
    for iteration in range(iterations + 1):
        residual = inverse + warp(precise, inverse, None, "linear", padding)
        norm = residual.detach().norm(dim=1, keepdim=True)
        inverse = torch.where(norm.isfinite(), inverse, torch.nan)
        norm = torch.where(norm.isfinite(), norm, torch.nan)
        is_open = norm > tolerance
        open_samples = is_open.flatten(1).any(1)
        if iteration == iterations or not open_samples.any():
            break
        used = torch.where(open_samples, iteration + 1, used)
        relaxation = torch.where(norm < before, (2 * relaxation).clamp(max=1), relaxation / 2)
        before = norm
        inverse = inverse - torch.where(is_open, relaxation * residual, 0.0)
    norms = norm.flatten(1)
    largest = norms.amax(1) if norms.shape[1] else norms.new_zeros(batch)
    return inverse.to(displacement.dtype), largest, used


def invert_adjoint(
    grad: Tensor, displacement: Tensor, inverse: Tensor, padding: str = "border"
) -> Tensor:
    """The gradient to ``u`` by the implicit function theorem, exact where ``w`` has converged.

    ``w + u(p + w) = 0`` gives ``M dw = -du(p + w)`` with ``M = I + grad u`` at ``p + w``, hence
    ``-splat(M^-T grad, w)``.

    Args:
        grad: the gradient of ``w``, ``(N, d, *spatial)``.
        displacement: ``u``, of the same shape.
        inverse: ``w``, of the same shape.
        padding: as for ``invert``.

    Returns:
        The gradient to ``u``, in its dtype.
    """
    precision = torch.promote_types(displacement.dtype, torch.float32)
    u, w, grad = (x.detach().to(precision) for x in (displacement, inverse, grad))
    rows = []
    with torch.enable_grad():
        location = w.clone().requires_grad_()
        for component in u.unbind(1):
            sampled = warp(component[:, None], location, None, "linear", padding)
            rows.append(torch.autograd.grad(sampled.sum(), location)[0])
    gradient = torch.stack(rows, 1)  # (N, component, axis, *spatial)
    identity = torch.eye(len(rows), dtype=precision, device=u.device)
    transposed = gradient.flatten(3).permute(0, 3, 2, 1) + identity
    right = grad.flatten(2).transpose(1, 2)[..., None]
    adjoint = torch.linalg.solve_ex(transposed, right)[0][..., 0]
    adjoint = adjoint.transpose(1, 2).reshape(grad.shape)
    return -splat(adjoint, w, None, None, "linear", padding).to(displacement.dtype)
