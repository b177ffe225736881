"""Derivatives of a definition by autograd: its gradients, and those differentiated once more."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from plasticine.reference.warp import warp


def gradients(
    function: Callable[..., Tensor],
    inputs: Sequence[Tensor | None],
    needs: Sequence[bool],
    grad: Tensor,
) -> tuple[Tensor | None, ...]:
    """The gradients of a definition, by autograd.

    Args:
        function: of the inputs, to the result.
        inputs: tensors or None.
        needs: which inputs want a gradient.
        grad: the result's gradient.

    Returns:
        For each input its contiguous gradient, or None where none is needed.
    """
    with torch.inference_mode(False), torch.enable_grad():
        # An inference tensor cannot be recorded; its copy can.
        leaves = [
            x if x is None else (x.clone() if x.is_inference() else x.detach()).requires_grad_(need)
            for x, need in zip(inputs, needs, strict=True)
        ]
        found: tuple[Tensor | None, ...]
        wanted = [x for x, need in zip(leaves, needs, strict=True) if x is not None and need]
        result = function(*leaves)
        if result.requires_grad:
            found = torch.autograd.grad(result, wanted, grad, allow_unused=True)
        else:
            found = tuple(None for _ in wanted)
    remaining = iter(found)
    return tuple(
        _contiguous(next(remaining), x) if x is not None and need else None
        for x, need in zip(inputs, needs, strict=True)
    )


def _contiguous(gradient: Tensor | None, of: Tensor) -> Tensor:
    if gradient is None:
        return torch.zeros_like(of, memory_format=torch.contiguous_format)
    return gradient.contiguous()


def double_backward(
    function: Callable[..., Tensor],
    inputs: Sequence[Tensor | None],
    directions: Sequence[Tensor | None],
    grad: Tensor,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Differentiates the gradients of ``function``, which for ``grad`` are those of its backward.

    Args:
        function: of the inputs, to the result.
        inputs: tensors or None.
        directions: for each input the cotangent of its gradient, or None.
        grad: the result's gradient.
        needs: which of ``grad`` and then the inputs want a gradient.

    Returns:
        For ``grad`` and then each input its contiguous gradient, or None where none is needed.
    """
    with torch.inference_mode(False), torch.enable_grad():
        # An inference tensor cannot be recorded; its copy can.
        leaves = [
            x if x is None else (x.clone() if x.is_inference() else x.detach()).requires_grad_()
            for x in (grad, *inputs)
        ]
        wanted = [x for x, need in zip(leaves, needs, strict=True) if x is not None and need]
        steered = [
            (x, direction)
            for x, direction in zip(leaves[1:], directions, strict=True)
            if x is not None and direction is not None
        ]
        gradients = torch.autograd.grad(
            function(*leaves[1:]),
            [x for x, _ in steered],
            leaves[0],
            create_graph=True,
            allow_unused=True,
        )
        pairs = [
            (x, direction)
            for x, (_, direction) in zip(gradients, steered, strict=True)
            if x is not None and x.requires_grad
        ]
        found: Sequence[Tensor | None] = [None] * len(wanted)
        if pairs and wanted:
            found = torch.autograd.grad(
                [x for x, _ in pairs], wanted, [y for _, y in pairs], allow_unused=True
            )
    remaining = iter(found)
    results: list[Tensor | None] = []
    for x, need in zip(leaves, needs, strict=True):
        if x is None or not need:
            results.append(None)
            continue
        gradient = next(remaining)
        if gradient is None:
            gradient = torch.zeros_like(x, memory_format=torch.contiguous_format)
        results.append(gradient.contiguous())
    return results


def warp_double_backward(
    directions: Sequence[Tensor | None],
    grad: Tensor,
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None,
    mode: str,
    padding: str,
    add: bool,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """The gradients of ``<directions, the gradients of warp>``.

    That to ``grad`` is the derivative of ``warp`` along the directions; those to the others are the
    Hessian of ``<grad, warp>`` times the directions. Where a coordinate is NaN, so are the results
    of its voxel.

    Args:
        directions: the cotangents of the gradients of image, displacement and affine, or None.
        grad: ``(N, C, *spatial)``, the gradient of the result of ``warp``.
        image: see ``warp``.
        displacement: see ``warp``.
        affine: see ``warp``.
        mode: "linear" or "nearest".
        padding: "zeros", "border" or "reflection".
        add: of ``compose``, where ``displacement`` is added to the result.
        needs: which of grad, image, displacement and affine want a gradient.

    Returns:
        For each of these its contiguous gradient, or None where none is needed.
    """
    dtypes = [None if x is None else x.dtype for x in (grad, image, displacement, affine)]
    if image.element_size() < 4:
        # Computed in float32 and rounded once.
        directions = [None if x is None else x.float() for x in directions]
        grad, image, displacement = grad.float(), image.float(), displacement.float()
        affine = None if affine is None else affine.float()

    def function(image: Tensor, displacement: Tensor, affine: Tensor | None) -> Tensor:
        result = warp(image, displacement, affine, mode, padding)
        return result + displacement if add else result

    results = double_backward(function, (image, displacement, affine), directions, grad, needs)
    if grad.numel():
        # Where there is no location, zeros come out as NaN.
        undefined = warp(
            torch.zeros_like(image[:, :1]), displacement, affine, mode, padding
        ).isnan()
        if results[0] is not None:
            results[0] = torch.where(undefined, torch.nan, results[0])
        if mode == "linear" and results[2] is not None:
            results[2] = torch.where(undefined, torch.nan, results[2])
        if mode == "linear" and results[3] is not None:
            anywhere = undefined.flatten(1).any(1)[:, None, None]
            results[3] = torch.where(anywhere, torch.nan, results[3])
    return tuple(
        None if x is None else x.to(dtype) for x, dtype in zip(results, dtypes, strict=True)
    )
