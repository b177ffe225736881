"""``plasticine.joint_histogram``: how often the values of two images meet, in soft bins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from plasticine import reference
from plasticine.ops import _autocast, _checks, _words
from plasticine.ops._differentiable import differentiable, result_dtype
from plasticine.ops._kernels import broadcast_batch
from plasticine.ops._masks import check_mask, mask_of

KERNELS = ("bspline", "gaussian", "mattes")
# The fewest with a cell between the margins, and the most.
_FEWEST = {"bspline": 5, "gaussian": 2, "mattes": 6}
_MOST = 1024
# Of the Gaussian: narrower and it is no window, wider and the kernels have no taps for it.
_SIGMAS = (0.25, 1.0)
# Voxels of a part, whose sums are added up before the next's are added to them.
_PART, _GPU_PART = 2**16, 2**13
_MOST_PARTS = 1024


@_words.checks_inside
def joint_histogram(
    x: Tensor,
    y: Tensor,
    *,
    bins: int = 32,
    kernel: str = "bspline",
    mask: Tensor | None = None,
    value_range: tuple[float, float] | Tensor | None = None,
    sigma: float = 0.5,
    backend: str = "auto",
    **_unknown: NoReturn,
) -> Tensor:
    """The Parzen joint histogram of two images: differentiable in both.

    Each voxel is shared out to bins around its pair of values by windows that sum to 1: entry
    (a, b) is the sum over voxels of ``mask * window_a(x) * window_b(y)``. Channels are more voxels.

    ==========  =======================================================  =====================
    kernel      windows                                                  a range of values has
    ==========  =======================================================  =====================
    "bspline"   cubic B-splines of both (Thévenaz and Unser)             bins 1 to bins - 2
    "gaussian"  Gaussians of both, normalised over the bins              bins 0 to bins - 1
    "mattes"    a cubic B-spline of x, the nearest bin of y (Mattes et   bins 2 to bins - 3
                al.), of two within 2^-16 of a bin's middle half each:
                there is no gradient to y
    ==========  =======================================================  =====================

    Args:
        x: ``(N, C, *spatial)``, 2D or 3D, float32, float64, float16 or bfloat16.
        y: of the shape and dtype of ``x``.
        bins: along each axis of the histogram, up to 1024; at least 5, for "gaussian" 2, for
            "mattes" 6.
        kernel: "bspline", "gaussian" or "mattes".
        mask: ``(N, 1, *spatial)``, bool or floating, 0 or more: how much each voxel counts. One
            that counts 0 is not looked at. No gradient flows to it. None: all count 1.
        value_range: the values at the ends of the bins above, (least, greatest) for both images, or
            a tensor ``(N, 2, 2)`` of them, one pair for x and one for y. Values beyond are clamped
            and have gradient 0. None: each image's own least and greatest value that counts,
            sample by sample; they are constants to the gradient, and stay on the device.
        sigma: of the Gaussian, in bins, from 0.25 to 1.
        backend: "auto", "cpu", "cuda", "triton" or "reference"; see :mod:`plasticine.backends`.

    Tensors may have a batch of 1 where others have N. Under ``torch.autocast`` half images are
    read in float32.

    Returns:
        ``(N, bins, bins)``, rows over x, that sums to what counts; float64 of float64 images and
        float32 of all others, from sums in float64. A value that is NaN where it counts makes its
        sample NaN. Differentiable twice, and in forward mode, by the same bits every time; the
        latter two are the definition's, in plain PyTorch, whatever the backend.

    Raises:
        TypeError: an argument is no tensor, or of a dtype that is not served.
        ValueError: shapes, devices or options do not fit.
        RuntimeError: the backend asked for by name is missing or cannot serve the call.

    Sources: P. Thévenaz, M. Unser, "Optimization of mutual information for multiresolution image
    registration", IEEE TIP 9 (2000); D. Mattes et al., "PET-CT image registration in the chest
    using free-form deformations", IEEE TMI 22 (2003).
    """
    if _unknown:
        _words.refuse(joint_histogram, _unknown)
    _checks.is_tensor(x, "x")
    _checks.is_tensor(y, "y")
    if _autocast.is_any_enabled():
        x, y = _autocast.single(x, y)
    mask = mask_of(mask, x)
    if value_range is None or not isinstance(value_range, Tensor):
        _check_images(x, y)
        ends = _ends(value_range, x, y, mask)
    else:
        _checks.is_tensor(value_range, "value_range")
        _checks.floating(value_range, "value_range")
        ends = value_range.detach().to(result_dtype(x))
    x, y, mask, ends = broadcast_batch(x, y, mask, ends)
    return JOINT_HISTOGRAM(
        x, y, mask, ends, _checks.count_of(bins, "bins"), kernel, float(sigma), backend
    )


def _ends(
    value_range: tuple[float, float] | None, x: Tensor, y: Tensor, mask: Tensor | None
) -> Tensor:
    """The range of values of both images, ``(N or 1, 2, 2)``."""
    dtype = result_dtype(x)
    if value_range is not None:
        try:
            low, high = (float(value) for value in value_range)
        except (TypeError, ValueError):
            raise TypeError(
                "value_range must be a torch.Tensor (N, 2, 2), two numbers or None, got "
                f"{value_range!r}"
            ) from None
        if not low < high:
            raise ValueError(f"value_range must rise, got {value_range!r}")
        return torch.tensor([[[low, high]] * 2], dtype=dtype, device=x.device)
    if mask is not None and mask.shape[0] != x.shape[0] and 1 not in (mask.shape[0], x.shape[0]):
        _checks.same_batch(mask, "mask", x, "x")
    return torch.stack(broadcast_batch(*(extremes(image, mask).to(dtype) for image in (x, y))), 1)


def extremes(image: Tensor, mask: Tensor | None = None) -> Tensor:
    """The least and the greatest value that counts of each sample, ``(N, 2)``; else 0 and 0."""
    image = image.detach()
    if image.numel() == 0:
        return image.new_zeros(image.shape[0], 2)
    axes = tuple(range(1, image.dim()))
    if mask is None:
        return torch.stack([image.amin(axes), image.amax(axes)], 1)
    counts = mask != 0
    least = torch.where(counts, image, torch.inf).amin(axes)
    greatest = torch.where(counts, image, -torch.inf).amax(axes)
    return torch.stack([least, greatest], 1).masked_fill((least > greatest)[:, None], 0)


def _check_images(x: Tensor, y: Tensor) -> None:
    _checks.image_alone(x, "x")
    _checks.image_alone(y, "y")
    if x.dtype != y.dtype:
        raise TypeError(f"x and y must have one dtype, got x {x.dtype} and y {y.dtype}")
    _checks.same_device(x, "x", y, "y")
    if 1 not in (x.shape[0], y.shape[0]):
        _checks.same_batch(x, "x", y, "y")
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(
            "x must have shape (N, C, *spatial) and y must have shape of x, got x of shape "
            f"{tuple(x.shape)} and y of shape {tuple(y.shape)}"
        )


def check(
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    value_range: Tensor,
    bins: int,
    kernel: str,
    sigma: float,
) -> None:
    """Raises unless the arguments fit together."""
    _check_images(x, y)
    _checks.same_batch(x, "x", y, "y")
    check_mask(mask, x)
    _checks.floating(value_range, "value_range")
    _checks.same_device(value_range, "value_range", x, "x")
    _checks.same_batch(value_range, "value_range", x, "x")
    if value_range.shape != (x.shape[0], 2, 2):
        raise ValueError(
            f"value_range must have shape (N or 1, 2, 2), got {tuple(value_range.shape)} for x of "
            f"shape {tuple(x.shape)}"
        )
    if value_range.dtype != result_dtype(x):
        raise TypeError(f"value_range must have dtype {result_dtype(x)}, got {value_range.dtype}")
    if not _FEWEST[kernel] <= bins <= _MOST:
        raise ValueError(
            f"bins must be from {_FEWEST[kernel]} to {_MOST} with kernel={kernel!r}, got {bins}"
        )
    if not _SIGMAS[0] <= sigma <= _SIGMAS[1]:
        raise ValueError(f"sigma must be from {_SIGMAS[0]} to {_SIGMAS[1]} bins, got {sigma}")


def _shape(x: Tensor, y: Tensor, mask: Any, value_range: Any, bins: int, *_: Any) -> Sequence[int]:
    return (x.shape[0], bins, bins)


def _scratch(x: Tensor, y: Tensor, mask: Any, value_range: Any, bins: int, *_: Any) -> Tensor:
    """The sums of the parts of every sample: by its size alone, so that no result depends on more.

    A part has eight times as many voxels as the histogram has entries, or more.
    """
    part = max(_PART if x.is_cpu else _GPU_PART, 8 * bins**2)
    parts = min(max(x.shape[1:].numel() // part, 1), _MOST_PARTS)
    return x.new_empty((x.shape[0], parts, bins, bins), dtype=torch.float64)


def _define(
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    value_range: Tensor,
    bins: int,
    kernel: str,
    sigma: float,
) -> Tensor:
    """The definition, of the operator's arguments in their order."""
    options: dict[str, Any] = {"bins": bins, "kernel": kernel, "sigma": sigma}
    return reference.joint_histogram(x, y, mask, value_range=value_range, **options)


def _slabs(first: Tensor, *others: Tensor | None) -> Any:
    """Slabs of the first axis of images, or None for one that is none, together."""
    slab = max(1, _PART // max(1, first.shape[1] * first.shape[3:].numel()))
    parts = first.split(slab, 2)
    rest = ([None] * len(parts) if image is None else image.split(slab, 2) for image in others)
    return zip(parts, *rest, strict=True)


def _define_backward(grad: Tensor, x: Tensor, y: Tensor, mask: Any, *arguments: Any) -> Any:
    """The gradients of the definition, slab by slab: it holds every weight."""
    *others, needs = arguments
    found = [
        reference.gradients(lambda a, b, m=m: _define(a, b, m, *others), images, needs, grad)
        for *images, m in _slabs(x, y, mask)
    ]
    return tuple(
        torch.cat([image for image in images if image is not None], 2) if need else None
        for images, need in zip(zip(*found, strict=True), needs, strict=True)
    )


def _double_backward(
    directions: Sequence[Tensor | None],
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    *arguments: Any,
) -> Sequence[Tensor | None]:
    """Slab by slab as well, of which each adds to what grad gets."""
    *others, needs = arguments
    found = [
        reference.double_backward(
            lambda a, b, m=m: _define(a, b, m, *others), (a, b), along, grad, needs
        )
        for a, b, m, *along in _slabs(x, y, mask, *directions)
    ]
    of_grad, *of_images = zip(*found, strict=True)
    return [
        torch.stack(of_grad).sum(0) if needs[0] else None,
        *(
            torch.cat(parts, 2) if need else None
            for parts, need in zip(of_images, needs[1:], strict=True)
        ),
    ]


JOINT_HISTOGRAM, JOINT_HISTOGRAM_BACKWARD, JOINT_HISTOGRAM_DOUBLE_BACKWARD = differentiable(
    "joint_histogram(Tensor x, Tensor y, Tensor? mask, Tensor value_range, int bins, str kernel, "
    "float sigma) -> Tensor",
    function="joint_histogram",
    check=check,
    shape=_shape,
    scratch=_scratch,
    accumulated=True,
    constants=2,
    definition=_define,
    choices={"kernel": KERNELS},
    serve_backward={"reference": _define_backward},
    double_backward=_double_backward,
)
