"""Cross-correlation: FireANTs averages five images over windows, before and after."""

from __future__ import annotations

import enum

import torch
from torch import Tensor


class Reduction(enum.Enum):
    """What becomes of the correlations of all voxels."""

    NONE = 0
    SUM = 1
    MEAN = 2


def create_intermediates(input_img: Tensor, target_img: Tensor, interm: Tensor) -> None:
    """Fills ``(B, 5 C, ...)`` with x, y, x², y² and x·y."""
    x, y = input_img, target_img
    interm.copy_(torch.cat([x, y, x * x, y * y, x * y], 1))


def _moments(interm: Tensor, dr: float) -> tuple[Tensor, ...]:
    """Means of x and y in a window, their covariance and variances.

    Last, which variances are not held at their least value.
    """
    x, y, xx, yy, xy = interm.chunk(5, 1)
    cross = xy - x * y
    of_x, of_y = xx - x * x, yy - y * y
    return x, y, cross, of_x.clamp(min=dr), of_y.clamp(min=dr), of_x >= dr, of_y >= dr


def cc3d_fwd_interm_v1(
    interm: Tensor, kernel_vol: int, reduction: Reduction, nr: float, dr: float
) -> Tensor:
    """The squared correlation of every voxel's window from the averages of the five images.

    FireANTs passes ``nr`` and ``dr`` times the voxels of a window: divided by these, the numbers
    are those of its loss without fused operators.
    """
    nr, dr = nr / kernel_vol, dr / kernel_vol
    _, _, cross, of_x, of_y, _, _ = _moments(interm, dr)
    squared = (cross * cross + nr) / (of_x * of_y + dr)
    if reduction is Reduction.NONE:
        return squared
    return squared.sum() if reduction is Reduction.SUM else squared.mean()


def cc3d_bwd_modify_interm_v1(
    interm: Tensor,
    input_img: Tensor,
    target_img: Tensor,
    grad_output: Tensor,
    grad_input_img: Tensor | None,
    grad_target_img: Tensor | None,
    kernel_size: int,
    kernel_vol: int,
    nr: float,
    dr: float,
    reduction: Reduction,
) -> None:
    """Puts derivatives with respect to averages in their place, to be averaged in their turn.

    In order: of x, x², x·y, and, for the other image, y and y². The gradient of a mean is not
    divided by the number of voxels: so it is in FireANTs, whose tests divide it.
    """
    nr, dr = nr / kernel_vol, dr / kernel_vol
    x, y, cross, of_x, of_y, x_varies, y_varies = _moments(interm, dr)
    below = of_x * of_y + dr
    squared = (cross * cross + nr) / below
    of_cross = grad_output * 2 * cross / below
    of_xx = grad_output * -squared * of_y / below * x_varies
    of_yy = grad_output * -squared * of_x / below * y_varies
    of_means = -of_cross * y - 2 * of_xx * x, -of_cross * x - 2 * of_yy * y
    interm.copy_(torch.cat([of_means[0], of_xx, of_cross, of_means[1], of_yy], 1))


def cc3d_bwd_compute_grads(
    interm: Tensor,
    input_img: Tensor,
    target_img: Tensor,
    grad_input_img: Tensor | None,
    grad_target_img: Tensor | None,
) -> None:
    """The images' gradients from what the function above left, averaged over windows."""
    of_x, of_xx, of_cross, of_y, of_yy = interm.chunk(5, 1)
    if grad_input_img is not None:
        grad_input_img.copy_(of_x + 2 * of_xx * input_img + of_cross * target_img)
    if grad_target_img is not None:
        grad_target_img.copy_(of_y + 2 * of_yy * target_img + of_cross * input_img)
