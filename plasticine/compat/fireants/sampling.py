"""Sampling: of images, of displacements by displacements, and of label maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from plasticine.compat.fireants.places import Places, coordinates
from plasticine.ops.warp import WARP, WARP_BACKWARD

_MODES = ("linear", "nearest", "cubic")
_PADDINGS = ("zeros", "border", "reflection")


def _options(mode: int, padding: int, align_corners: bool) -> tuple[str, str]:
    if not align_corners and _PADDINGS[padding] == "reflection":
        raise NotImplementedError(
            "padding_mode='reflection' with align_corners=False is not served: plasticine reflects "
            "at the centres of the outermost voxels"
        )
    return _MODES[mode], _PADDINGS[padding]


def _forward(image: Tensor, output: Tensor | None, places: Places, *options: str) -> Tensor:
    affine, displacement = places.in_voxels(image)
    found = WARP(image, displacement, affine, *options, "auto")
    return found if output is None else output.add_(found)


def _backward(
    image: Tensor,
    places: Places,
    grad: Tensor,
    gradients: Sequence[Tensor | None],
    *options: str,
) -> None:
    """Adds to the gradients of the image, of the affine and of the grid."""
    of_image, of_affine, of_grid = gradients
    with torch.enable_grad():
        leaves, places = places.leaves(of_affine is not None, of_grid is not None)
        affine, displacement = places.in_voxels(image)
    needs = [of_image is not None, displacement.requires_grad, affine.requires_grad]
    grad = grad.to(image.dtype)
    found = WARP_BACKWARD(
        grad, image, displacement.detach(), affine.detach(), *options, "auto", needs
    )
    if of_image is not None:
        of_image.add_(found[0])
    wanted = [
        (x, g) for x, g in zip((displacement, affine), found[1:], strict=True) if x.requires_grad
    ]
    if wanted:
        results, grads = zip(*wanted, strict=True)
        for into, x in zip((of_affine, of_grid), leaves, strict=True):
            if into is not None and x is not None:
                (change,) = torch.autograd.grad(
                    results, x, grads, retain_graph=True, materialize_grads=True
                )
                into.add_(change)


def _sampler(ndim: int) -> tuple[Callable[..., Tensor], Callable[..., None]]:
    def forward(
        input: Tensor,
        affine: Tensor | None,
        grid: Tensor | None,
        grid_affine: Tensor | None,
        output: Tensor | None,
        *numbers: Any,
    ) -> Tensor:
        size, least, most, (is_displacement, mode, padding, align) = _split(numbers, ndim)
        places = Places(affine, grid, grid_affine, size, least, most, is_displacement, align)
        return _forward(input, output, places, *_options(mode, padding, align))

    def backward(
        input: Tensor,
        affine: Tensor | None,
        grid: Tensor | None,
        grid_affine: Tensor | None,
        grad_output: Tensor,
        grad_input: Tensor | None,
        grad_affine: Tensor | None,
        grad_grid: Tensor | None,
        *numbers: Any,
    ) -> None:
        size, least, most, (is_displacement, mode, padding, align) = _split(numbers, ndim)
        places = Places(affine, grid, grid_affine, size, least, most, is_displacement, align)
        gradients = grad_input, grad_affine, grad_grid
        _backward(input, places, grad_output, gradients, *_options(mode, padding, align))

    return forward, backward


def _split(
    numbers: Sequence[Any], ndim: int
) -> tuple[Sequence[int], Sequence[float], Sequence[float], Sequence[Any]]:
    """The size, the least and the greatest coordinates, and what comes after them."""
    size, least, most = (numbers[k * ndim : (k + 1) * ndim] for k in range(3))
    return size, least, most, numbers[3 * ndim :]


fused_grid_sampler_2d_forward, fused_grid_sampler_2d_backward = _sampler(2)
fused_grid_sampler_3d_forward, fused_grid_sampler_3d_backward = _sampler(3)


def _composer(ndim: int) -> tuple[Callable[..., Tensor], Callable[..., None]]:
    """A displacement sampled where an affine and another displacement lead: zeros outside."""

    def forward(input: Tensor, affine: Tensor | None, grid: Tensor, *numbers: Any) -> Tensor:
        *ends, align, output = numbers
        places = Places(affine, grid, None, grid.shape[1:-1], ends[:ndim], ends[ndim:], True, align)
        found = _forward(input.movedim(-1, 1), None, places, "linear", "zeros").movedim(1, -1)
        return found.contiguous() if output is None else output.add_(found)

    def backward(
        input: Tensor,
        affine: Tensor | None,
        grid: Tensor,
        grad_output: Tensor,
        grad_input: Tensor | None,
        grad_affine: Tensor | None,
        grad_grid: Tensor | None,
        *numbers: Any,
    ) -> None:
        *ends, align = numbers
        places = Places(affine, grid, None, grid.shape[1:-1], ends[:ndim], ends[ndim:], True, align)
        of_image = None if grad_input is None else grad_input.movedim(-1, 1)
        gradients = of_image, grad_affine, grad_grid
        image, grad = input.movedim(-1, 1), grad_output.movedim(-1, 1)
        _backward(image, places, grad, gradients, "linear", "zeros")

    return forward, backward


fused_grid_composer_2d_forward, fused_grid_composer_2d_backward = _composer(2)
fused_grid_composer_3d_forward, fused_grid_composer_3d_backward = _composer(3)


def _creator(ndim: int) -> tuple[Callable[..., Tensor], Callable[..., None]]:
    """The coordinates that an affine and a displacement lead to."""

    def forward(affine: Tensor | None, grid: Tensor, *ends: float) -> Tensor:
        result = grid.clone()
        for axis, line in enumerate(coordinates(grid, ends[:ndim], ends[ndim:])):
            if affine is None:
                result[..., axis] += line
            else:
                result += line.unsqueeze(-1) * _column(affine, axis).to(grid.dtype)
        return result if affine is None else result + _column(affine, -1).to(grid.dtype)

    def backward(
        affine: Tensor | None,
        grid: Tensor,
        grad_output: Tensor,
        grad_affine: Tensor | None,
        grad_grid: Tensor | None,
        *ends: float,
    ) -> None:
        if grad_grid is not None:
            grad_grid.add_(grad_output)
        if grad_affine is not None:
            for axis, line in enumerate(coordinates(grid, ends[:ndim], ends[ndim:])):
                along = (grad_output * line.unsqueeze(-1)).flatten(1, -2).sum(1)
                grad_affine[..., axis] += along.to(grad_affine.dtype)
            grad_affine[..., -1] += grad_output.flatten(1, -2).sum(1).to(grad_affine.dtype)

    def _column(affine: Tensor, axis: int) -> Tensor:
        return affine[..., axis].reshape(-1, *[1] * ndim, ndim)

    return forward, backward


fused_warp_create_2d_forward, fused_warp_create_2d_backward = _creator(2)
fused_warp_create_3d_forward, fused_warp_create_3d_backward = _creator(3)


def _labeller(ndim: int) -> tuple[Callable[..., Any], Callable[..., None]]:
    """Label maps: the label with the greatest weight among a place's neighbours, and its weight."""

    def weights(input: Tensor, places: Places, label: Tensor, padding: str) -> Tensor:
        return _forward((input == label).to(input.dtype), None, places, "linear", padding)

    def forward(
        input: Tensor,
        affine: Tensor | None,
        grid: Tensor | None,
        grid_affine: Tensor | None,
        output_labels: Tensor | None,
        output_weights: Tensor | None,
        *numbers: Any,
    ) -> tuple[Tensor, Tensor | None]:
        size, least, most, rest = _split(numbers, ndim)
        is_displacement, padding, align, return_weight, background = rest
        if background is not None:
            raise NotImplementedError("a background_label is not served: what it does is not known")
        places = Places(affine, grid, grid_affine, size, least, most, is_displacement, align)
        _, word = _options(0, padding, align)
        best = labels = None
        for label in input.unique():
            weight = weights(input, places, label, word)
            if best is None or labels is None:
                best, labels = weight, torch.full_like(weight, label)
                continue
            larger = weight > best
            labels.masked_fill_(larger, label)
            best = torch.where(larger, weight, best)
        if labels is None or best is None:
            raise ValueError(f"input has no voxels to sample, got shape {tuple(input.shape)}")
        if output_labels is not None:
            labels = output_labels.copy_(labels)
        if output_weights is not None:
            best = output_weights.copy_(best)
        return labels, best if return_weight else None

    def backward(
        input: Tensor,
        affine: Tensor | None,
        grid: Tensor | None,
        grid_affine: Tensor | None,
        output_labels: Tensor,
        grad_weights: Tensor,
        grad_affine: Tensor | None,
        grad_grid: Tensor | None,
        *numbers: Any,
    ) -> None:
        size, least, most, rest = _split(numbers, ndim)
        is_displacement, padding, align, _ = rest
        places = Places(affine, grid, grid_affine, size, least, most, is_displacement, align)
        _, word = _options(0, padding, align)
        for label in output_labels.unique():
            image = (input == label).to(input.dtype)
            grad = grad_weights * (output_labels == label)
            _backward(image, places, grad, (None, grad_affine, grad_grid), "linear", word)

    return forward, backward


fused_grid_sampler_2d_generic_label_forward, fused_grid_sampler_2d_generic_label_backward = (
    _labeller(2)
)
fused_grid_sampler_3d_generic_label_forward, fused_grid_sampler_3d_generic_label_backward = (
    _labeller(3)
)
