"""The checks on operators' arguments; every native function relies on them."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from plasticine.ops import _words

MODES = ("linear", "nearest")
CUBIC_MODES = ("cubic", "bspline")
SAMPLING_MODES = MODES + CUBIC_MODES
PADDINGS = ("zeros", "border", "reflection")
SCHEMES = ("central", "forward", "backward")
REGIONS = ("full", "interior")
CHECKPOINTS = ("store", "recompute")
METHODS = ("euler", "midpoint", "rk4")

_FLOATING = frozenset({torch.float32, torch.float64, torch.float16, torch.bfloat16})
_HALF = frozenset({torch.float16, torch.bfloat16})


def one_of(value: Any, name: str, allowed: Sequence[str]) -> None:
    """Raises ValueError unless ``value`` is one of the allowed words."""
    if value not in allowed:
        expected = ", ".join(repr(word) for word in allowed)
        hint = _words.instead_of(value, allowed)
        raise ValueError(f"{name} must be one of {expected}, got {value!r}{hint}")


def is_tensor(value: Any, name: str) -> None:
    """Raises TypeError unless ``value`` is a tensor with at least a batch axis."""
    if value is _words.MISSING:
        raise TypeError(f"the argument {name} is missing, a torch.Tensor")
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.dim() == 0:
        raise ValueError(f"{name} must have a batch axis, got a tensor without axes")


def floating(x: Tensor, name: str, others: str = "") -> None:
    """Raises TypeError unless ``x`` is a dense tensor of a floating-point type that is served.

    ``others``: what the message names beside these types.
    """
    if x.dtype not in _FLOATING:
        raise TypeError(
            f"{name} must be {others}float32, float64, float16 or bfloat16, got {x.dtype} with "
            f"shape {tuple(x.shape)}; convert it first (labels: warp them as floats with "
            "mode='nearest')"
        )
    if x.layout is not torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got layout {x.layout}")


def field(x: Tensor, name: str) -> int:
    """Checks a displacement or velocity, ``(N, d, *spatial)``; returns d."""
    floating(x, name)
    ndim = x.dim() - 2
    if ndim not in (2, 3) or x.shape[1] != ndim:
        raise ValueError(
            f"{name} must have shape (N, 2, y, x) or (N, 3, z, y, x), one component, in voxels, "
            f"per spatial axis; got shape {tuple(x.shape)}"
        )
    return ndim


def same_device(x: Tensor, name: str, other: Tensor, other_name: str) -> None:
    """Raises ValueError unless both tensors are on one device."""
    if x.device != other.device:
        raise ValueError(
            f"{name} and {other_name} must be on one device, got {name} on {x.device} and "
            f"{other_name} on {other.device}"
        )


def image_alone(image: Tensor, name: str) -> int:
    """Checks an image, ``(N, C, *spatial)``; returns d."""
    floating(image, name)
    if image.dim() not in (4, 5):
        raise ValueError(
            f"{name} must have shape (N, C, y, x) or (N, C, z, y, x), got shape "
            f"{tuple(image.shape)}"
        )
    return image.dim() - 2


def image_and_displacement(
    image: Tensor, displacement: Tensor, name: str = "displacement", *, coefficients: bool = False
) -> int:
    """Checks an image with the displacement, or velocity, that samples it; returns d.

    Coefficients may be float32 where the displacement, like the image they were made of, is not.
    """
    floating(image, "image")
    ndim = field(displacement, name)
    size, field_size = image.shape, displacement.shape  # once: they take longer than what is asked
    if len(size) != ndim + 2:
        raise ValueError(
            f"image must have shape (N, C, *spatial) with {ndim} spatial axes, as many as "
            f"{name} of shape {tuple(displacement.shape)} has; got shape {tuple(image.shape)}"
        )
    if (
        displacement.dtype != image.dtype
        and not (displacement.dtype == torch.float32 and image.dtype in _HALF)
        and not (coefficients and displacement.dtype in _HALF and image.dtype == torch.float32)
    ):
        raise TypeError(
            f"{name} must have the dtype of image, or float32 with a float16 or bfloat16 "
            f"image; got {name} {displacement.dtype} and image {image.dtype}"
        )
    same_device(displacement, name, image, "image")
    if field_size[0] != size[0]:
        same_batch(displacement, name, image, "image")
    if 0 in size:
        something_to_sample(image, "image", displacement, name)
    return ndim


def same_batch(x: Tensor, name: str, other: Tensor, other_name: str) -> None:
    """Raises ValueError unless both tensors have one batch size."""
    if x.shape[0] != other.shape[0]:
        raise ValueError(
            f"{name} and {other_name} must have the same batch size, or one of them 1; got "
            f"{name} of shape {tuple(x.shape)} and {other_name} of shape {tuple(other.shape)}"
        )


def something_to_sample(image: Tensor, name: str, field: Tensor, field_name: str) -> None:
    """Raises ValueError where an empty grid would have to be sampled."""
    if image.numel() != 0:
        return
    if 0 in image.shape[2:] and 0 not in field.shape and image.shape[1] != 0:
        raise ValueError(
            f"{name} has no voxels to sample (shape {tuple(image.shape)}), but {field_name} of "
            f"shape {tuple(field.shape)} asks for some"
        )


def affine_of(affine: Tensor, displacement: Tensor, ndim: int) -> None:
    """Checks an affine, ``(N, d, d + 1)`` in voxels, against its displacement."""
    if affine.shape != (displacement.shape[0], ndim, ndim + 1):
        raise ValueError(
            f"affine must have shape (N, {ndim}, {ndim + 1}) with N = {displacement.shape[0]} or "
            f"1, got shape {tuple(affine.shape)}"
        )
    if affine.dtype != displacement.dtype:
        raise TypeError(
            f"affine must have the dtype of displacement, got affine {affine.dtype} and "
            f"displacement {displacement.dtype}"
        )
    same_device(affine, "affine", displacement, "displacement")


def gradient(
    grad: Tensor, shape: Sequence[int], like: Tensor, dtype: torch.dtype | None = None
) -> None:
    """Checks the gradient of a result: its shape, its device, and its dtype, that of ``like``.

    Args:
        grad: the gradient.
        shape: of the result.
        like: on the result's device, and of its dtype unless ``dtype`` is given.
        dtype: of the result.
    """
    if grad.shape != shape:
        raise ValueError(f"grad must have shape {tuple(shape)}, got {tuple(grad.shape)}")
    if grad.dtype != (dtype or like.dtype):
        raise TypeError(f"grad must have dtype {dtype or like.dtype}, got {grad.dtype}")
    same_device(grad, "grad", like, "the result")


def steps_of(steps: Any) -> int:
    """A number of squarings as an int; TypeError or ValueError where it is none."""
    return count_of(steps, "steps")


def count_of(value: Any, name: str) -> int:
    """A number that counts as an int below 2**31; TypeError or ValueError where it is none."""
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, got {type(value).__name__}") from None
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got bool")
    if count < 0:
        raise ValueError(f"{name} must be 0 or more, got {count}")
    if count >= 2**31:
        raise ValueError(f"{name} must be less than 2**31, got {count}")
    return count


def steps_or_auto(steps: Any) -> Any:
    """The same, or the word "auto"."""
    if isinstance(steps, str):
        one_of(steps, "steps", ("auto",))
        return steps
    return steps_of(steps)


def spacing_of(spacing: Sequence[float] | None, ndim: int) -> list[float]:
    """A voxel size as a list of floats, 1 for None."""
    if spacing is None:
        return [1.0] * ndim
    try:
        sizes = [float(size) for size in spacing]
    except TypeError:
        raise TypeError(f"spacing must be {ndim} numbers or None, got {spacing!r}") from None
    if len(sizes) != ndim or not all(0 < size < math.inf for size in sizes):
        raise ValueError(
            f"spacing must be {ndim} positive, finite numbers, one per spatial axis, "
            f"got {spacing!r}"
        )
    return sizes
