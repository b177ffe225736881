"""Histograms, of which FireANTs makes mutual information."""

from __future__ import annotations

import enum
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor


class KernelType(enum.Enum):
    """The Parzen window of a histogram."""

    GAUSSIAN = 0
    BSPLINE = 1
    DELTA = 2


# Voxels whose windows are in memory at a time.
_BLOCK = 1 << 16


def _blocks(
    x: Tensor, y: Tensor, bins: int, least: float, most: float
) -> Iterator[tuple[Tensor, Tensor]]:
    """Both images in bins, a block of voxels at a time: ``(B, C, voxels)``, bin i around i."""
    for parts in zip(*(image.flatten(2).split(_BLOCK, 2) for image in (x, y)), strict=True):
        first, second = ((part - least) * (bins / (most - least)) - 0.5 for part in parts)
        yield first, second


def _windows(at: Tensor, bins: int, sigma_ratio: float) -> Tensor:
    """Gaussians of half a bin times the ratio, which sum to 1: ``(B, C, voxels, bins)``.

    They are not those of ``plasticine.joint_histogram``, whose outermost bins are at the ends of
    the range and not half a bin within.
    """
    distance = at.unsqueeze(-1) - torch.arange(bins, dtype=at.dtype, device=at.device)
    return (distance.square() * (-2 / sigma_ratio**2)).softmax(-1)


def _nearest(at: Tensor, bins: int) -> Tensor:
    return F.one_hot(at.round().clamp(0, bins - 1).long(), bins).to(at.dtype)


def mutual_information_histogram_fwd(
    input_img: Tensor,
    target_img: Tensor,
    num_bins: int,
    kernel_type: KernelType,
    minval: float,
    maxval: float,
    sigma_ratio: float,
    approximate_reduction: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The joint histogram and those of both images, as shares.

    ``approximate_reduction`` counts the nearest bins: FireANTs smooths them afterwards.
    """
    _served(kernel_type)
    nearest = approximate_reduction or kernel_type is KernelType.DELTA
    joint = input_img.new_zeros(*input_img.shape[:2], num_bins, num_bins)
    for first, second in _blocks(input_img, target_img, num_bins, minval, maxval):
        if nearest:
            of_x, of_y = _nearest(first, num_bins), _nearest(second, num_bins)
        else:
            of_x = _windows(first, num_bins, sigma_ratio)
            of_y = _windows(second, num_bins, sigma_ratio)
        joint += of_x.mT @ of_y
    joint /= input_img.shape[2:].numel()
    return joint, joint.sum(-1), joint.sum(-2)


def mutual_information_histogram_bwd(
    input_img: Tensor,
    target_img: Tensor,
    grad_pab: Tensor,
    grad_pa: Tensor,
    grad_pb: Tensor,
    num_bins: int,
    grad_input: Tensor | None,
    grad_target: Tensor | None,
    kernel_type: KernelType,
    minval: float,
    maxval: float,
    sigma_ratio: float,
) -> None:
    """Adds to the images' gradients, those of ``kernel_type``."""
    if kernel_type is KernelType.DELTA:
        return  # counts do not change with small steps
    _served(kernel_type)
    grad = grad_pab + grad_pa.unsqueeze(-1) + grad_pb.unsqueeze(-2)
    grad = grad / input_img.shape[2:].numel()
    begin = 0
    for first, second in _blocks(input_img, target_img, num_bins, minval, maxval):
        pair = first.detach(), second.detach()
        for k, into in enumerate((grad_input, grad_target)):
            if into is None:
                continue
            at, other = pair[k].requires_grad_(), pair[1 - k]
            with torch.enable_grad():
                own = _windows(at, num_bins, sigma_ratio)
            weights = _windows(other, num_bins, sigma_ratio) @ (grad if k else grad.mT)
            (change,) = torch.autograd.grad(own, at, weights.detach())
            scale = num_bins / (maxval - minval)
            # A view, as the gradients are contiguous: FireANTs makes them with zeros_like.
            into.flatten(2)[..., begin : begin + at.shape[2]].add_(change, alpha=scale)
        begin += first.shape[2]


def _served(kernel: KernelType) -> None:
    if kernel is KernelType.BSPLINE:
        raise NotImplementedError("the B-spline histogram is not served: it is not documented")
