"""Definition of ``normalized_gradient_field``: how parallel the edges of two images are."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticine.reference.jacobian import derivative


def normalized_gradient_field(
    x: Tensor, y: Tensor, epsilon: float = 0.01, mask: Tensor | None = None
) -> Tensor:
    """The mean of the squared cosine between the gradients, lessened where they are faint.

    Args:
        x: ``(N, C, *spatial)``.
        y: of the shape of ``x``.
        epsilon: the length that is added, in squares, to that of every gradient.
        mask: ``(N, 1, *spatial)`` or None.

    Returns:
        ``(N,)``, float64 of float64 images, else float32; 0 where nothing counts.
    """
    precision = torch.promote_types(x.dtype, torch.float32)
    gradients = [
        torch.stack(
            [derivative(image.to(precision).flatten(0, 1), axis, "central") for axis in range(ndim)]
        )
        for image, ndim in ((x, x.dim() - 2), (y, y.dim() - 2))
    ]
    if mask is not None:
        # Where nothing counts, nor does what is not finite, here and in the gradients.
        counted = (mask > 0).expand(x.shape).flatten(0, 1)
        gradients = [torch.where(counted, gradient, 0.0) for gradient in gradients]
    product = (gradients[0] * gradients[1]).sum(0)
    square_x, square_y = (gradient.square().sum(0) + epsilon**2 for gradient in gradients)
    cosine = (product.square() / (square_x * square_y)).unflatten(0, x.shape[:2])
    return weighted_mean(cosine, mask)


def weighted_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over channels and voxels of ``(N, C, *spatial)``; 0 where nothing counts."""
    if mask is None:
        count = values.shape[1:].numel()
        return values.flatten(1).sum(1) / max(count, 1)
    counted = (mask * values).flatten(1).sum(1)
    total = mask.flatten(1).sum(1) * values.shape[1]
    return counted / torch.where(total > 0, total, 1.0)
