"""Similarity of two images: PSNR, SSIM, correlation.

Every function takes ``(N, C, *spatial)`` tensors with two or three spatial axes. A stack of
slices is N two-dimensional images: windows never reach from one slice into the next. A NaN among
the voxels that count makes the figure NaN.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5


def check_tensor(value: object, name: str) -> None:
    """Refuses what is no tensor, such as a NumPy array.

    Args:
        value: Anything.
        name: What the caller calls it, for the message.

    Raises:
        TypeError: It is no tensor.
    """
    if not isinstance(value, torch.Tensor):
        kind = type(value)
        raise TypeError(
            f"{name}: expected a torch.Tensor, got {kind.__module__}.{kind.__qualname__}"
            + ("; torch.from_numpy makes one of it" if isinstance(value, np.ndarray) else "")
        )


def check_floating(value: object, name: str) -> None:
    """Refuses what is no floating-point tensor.

    Args:
        value: Anything.
        name: What the caller calls it, for the message.

    Raises:
        TypeError: It is no tensor, or not of a floating-point type.
    """
    check_tensor(value, name)
    if isinstance(value, torch.Tensor) and not value.is_floating_point():
        raise TypeError(f"{name}: expected a floating-point tensor, got {value.dtype}")


def check_pair(first: torch.Tensor, second: torch.Tensor, names: tuple[str, str]) -> None:
    """Refuses a pair that cannot be compared voxel by voxel.

    Args:
        first: Any tensor.
        second: The tensor it is to be compared with.
        names: What the caller calls them, for the message.

    Raises:
        TypeError: One is not a floating-point tensor.
        ValueError: Shapes or devices differ, or the shape is not ``(N, C, *spatial)``.
    """
    for tensor, name in zip((first, second), names, strict=True):
        check_floating(tensor, name)
    if first.shape != second.shape:
        raise ValueError(
            f"{names[0]} and {names[1]} must have one shape, "
            f"got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    if first.dim() not in (4, 5):
        raise ValueError(
            f"{names[0]}: expected (N, C, H, W) or (N, C, D, H, W), got {tuple(first.shape)}"
        )
    if first.device != second.device:
        raise ValueError(
            f"{names[0]} and {names[1]} must be on one device, "
            f"got {first.device} and {second.device}"
        )


def check_mask(mask: torch.Tensor, image: torch.Tensor) -> None:
    """Refuses a mask that is not a boolean tensor of the image's shape and device.

    Args:
        mask: The mask.
        image: The image it is to select voxels of.

    Raises:
        TypeError: The mask is not boolean.
        ValueError: Its shape or device is another.
    """
    check_tensor(mask, "mask")
    if mask.dtype != torch.bool:
        raise TypeError(f"mask: expected a boolean tensor, got {mask.dtype}")
    if mask.shape != image.shape or mask.device != image.device:
        raise ValueError(
            f"mask: expected shape {tuple(image.shape)} on {image.device}, "
            f"got {tuple(mask.shape)} on {mask.device}"
        )


def psnr(
    image: torch.Tensor,
    truth: torch.Tensor,
    *,
    data_range: float = 1.0,
    mask: torch.Tensor | None = None,
) -> float:
    """Peak signal-to-noise ratio, ``10 log10(data_range² / MSE)``, in dB.

    The mean squared error is taken over all voxels of the batch together (or all those in the
    mask), so that empty slices do not each count as a perfect image.

    Args:
        image: ``(N, C, *spatial)``, floating point.
        truth: The same shape.
        data_range: The largest minus the smallest value an image may take.
        mask: Boolean, the same shape; None for every voxel.

    Returns:
        The ratio in dB; ``inf`` where the images are equal, ``-inf`` where one is infinite; NaN
        for an empty mask.

    Raises:
        TypeError: A tensor is not floating point, or the mask is not boolean.
        ValueError: Shapes or devices differ, or ``data_range`` is not positive.
    """
    check_pair(image, truth, ("image", "truth"))
    _check_data_range(data_range)
    error = (image.double() - truth.double()).square()
    if mask is not None:
        check_mask(mask, image)
        error = error[mask]
    mean = float(error.mean()) if error.numel() else math.nan
    if mean == 0 or math.isinf(mean):
        return math.inf if mean == 0 else -math.inf
    return 10 * math.log10(data_range**2 / mean)


def ssim_map(image: torch.Tensor, truth: torch.Tensor, *, data_range: float = 1.0) -> torch.Tensor:
    """Structural similarity at every voxel (Wang et al., 2004).

    A Gaussian window of 11 voxels a side and sigma 1.5, K1 = 0.01, K2 = 0.03, population
    covariance: the settings of the paper, and of ``skimage.metrics.structural_similarity`` with
    ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False``. At the border the image is
    mirrored with the edge voxel repeated.

    Args:
        image: ``(N, C, *spatial)``, floating point, every spatial axis at least 5 long.
        truth: The same shape.
        data_range: The largest minus the smallest value an image may take.

    Returns:
        float64, the shape of ``image``.

    Raises:
        TypeError: A tensor is not floating point.
        ValueError: Shapes or devices differ, an axis is too short, or ``data_range`` is not
            positive.
    """
    check_pair(image, truth, ("image", "truth"))
    _check_data_range(data_range)
    half = SSIM_WINDOW // 2
    if min(image.shape[2:]) < half:
        raise ValueError(
            f"image: SSIM's window of {SSIM_WINDOW} needs spatial axes of at least {half} voxels, "
            f"got {tuple(image.shape[2:])}"
        )
    x, y = image.double(), truth.double()
    mean_x, mean_y = _gaussian(x), _gaussian(y)
    variance_x = _gaussian(x * x) - mean_x * mean_x
    variance_y = _gaussian(y * y) - mean_y * mean_y
    covariance = _gaussian(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    return luminance * (2 * covariance + c2) / (variance_x + variance_y + c2)


def ssim(
    image: torch.Tensor,
    truth: torch.Tensor,
    *,
    data_range: float = 1.0,
    mask: torch.Tensor | None = None,
) -> float:
    """Mean structural similarity of a batch; see `ssim_map` for the window and constants.

    Without a mask the mean is over the voxels whose whole window lies inside the image (a margin
    of 5 voxels is left out, as scikit-image does); with a mask it is over the mask's voxels, the
    windows still reading the whole image.

    Args:
        image: ``(N, C, *spatial)``, floating point.
        truth: The same shape.
        data_range: The largest minus the smallest value an image may take.
        mask: Boolean, the same shape; None for the interior.

    Returns:
        The mean, at most 1; NaN for an empty mask.

    Raises:
        TypeError: A tensor is not floating point, or the mask is not boolean.
        ValueError: Shapes or devices differ, or without a mask an axis is shorter than 11.
    """
    similarity = ssim_map(image, truth, data_range=data_range)
    if mask is not None:
        check_mask(mask, image)
        return float(similarity[mask].mean())
    if min(image.shape[2:]) < SSIM_WINDOW:
        raise ValueError(
            f"image: without a mask SSIM needs spatial axes of at least {SSIM_WINDOW} voxels, "
            f"got {tuple(image.shape[2:])}"
        )
    half = SSIM_WINDOW // 2
    inside = (slice(None), slice(None)) + (slice(half, -half),) * (image.dim() - 2)
    return float(similarity[inside].mean())


def correlation(
    image: torch.Tensor, truth: torch.Tensor, *, mask: torch.Tensor | None = None
) -> float:
    """Pearson correlation of the voxels' values, over the batch together.

    Args:
        image: ``(N, C, *spatial)``, floating point.
        truth: The same shape.
        mask: Boolean, the same shape; None for every voxel.

    Returns:
        From -1 to 1; NaN where the mask is empty, or one of the images constant: where no value
        differs from the mean by more than the spacing of its dtype's numbers at the largest.

    Raises:
        TypeError: A tensor is not floating point, or the mask is not boolean.
        ValueError: Shapes or devices differ.
    """
    check_pair(image, truth, ("image", "truth"))
    x, y = image.double(), truth.double()
    if mask is not None:
        check_mask(mask, image)
        x, y = x[mask], y[mask]
    if x.numel() == 0:
        return math.nan
    x, y = _standardised(x, image.dtype), _standardised(y, truth.dtype)
    return float((x.dot(y) / (x.norm() * y.norm())).clamp(-1, 1))


def _standardised(values: torch.Tensor, stored: torch.dtype) -> torch.Tensor:
    """Float64 values less their mean, the largest 1; 0, whose correlation is NaN, of a constant."""
    values = values.flatten()
    centred = values - values[0]  # of a constant 0 everywhere, which its mean's rounding is not
    centred = centred - centred.mean()
    largest = centred.abs().amax()
    constant = largest <= torch.finfo(stored).eps * values.abs().amax()
    return torch.where(constant, 0.0, centred / largest)


def _check_data_range(data_range: float) -> None:
    if not data_range > 0:
        raise ValueError(f"data_range: expected a positive number, got {data_range}")


def _gaussian(image: torch.Tensor) -> torch.Tensor:
    """Filters every spatial axis with the SSIM window, mirrored at the border."""
    half = SSIM_WINDOW // 2
    offsets = torch.arange(-half, half + 1, dtype=image.dtype, device=image.device)
    window = torch.exp(-0.5 * (offsets / SSIM_SIGMA).square())
    window = (window / window.sum()).reshape(1, 1, -1)
    for axis in range(2, image.dim()):
        rows = image.movedim(axis, -1)
        # torch's "reflect" padding leaves the edge voxel out; scikit-image repeats it.
        mirrored = torch.cat(
            (rows[..., :half].flip(-1), rows, rows[..., rows.shape[-1] - half :].flip(-1)), -1
        )
        filtered = F.conv1d(mirrored.reshape(-1, 1, mirrored.shape[-1]), window)
        image = filtered.reshape(rows.shape).movedim(-1, axis)
    return image
