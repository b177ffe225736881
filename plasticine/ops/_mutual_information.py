"""``plasticine.mutual_information``: what one image says about another, from their histogram."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from plasticine.ops import _checks, _words
from plasticine.ops._masks import mask_of
from plasticine.ops._random import hash_of, stratified
from plasticine.ops.joint_histogram import joint_histogram


@_words.checks_inside
def mutual_information(
    x: Tensor,
    y: Tensor,
    *,
    bins: int = 32,
    kernel: str = "bspline",
    mask: Tensor | None = None,
    normalized: bool = False,
    sample: float | None = None,
    seed: int = 0,
    value_range: tuple[float, float] | Tensor | None = None,
    sigma: float = 0.5,
    backend: str = "auto",
    **_unknown: NoReturn,
) -> Tensor:
    """Mutual information of two images in nats, whatever their contrasts: higher is more alike.

    ``sum p_ab log(p_ab / (p_a p_b))`` of the joint distribution p that
    :func:`plasticine.joint_histogram` estimates with Parzen windows, which says what the kernels
    and the range of values are. Nothing larger than the histogram is held, and nothing is read back
    from the device. A loss is its negative.

    Args:
        x: ``(N, C, *spatial)``, 2D or 3D, float32, float64, float16 or bfloat16.
        y: of the shape and dtype of ``x``.
        bins: along each axis of the histogram.
        kernel: "bspline", "gaussian", or "mattes", which has no gradient to y.
        mask: ``(N, 1, *spatial)``, bool or floating: how much each voxel counts. No gradient flows
            to it. None: all count 1.
        normalized: the normalised mutual information ``(H(x) + H(y)) / H(x, y)`` instead, from 1 to
            2 (Studholme, Hill and Hawkes).
        sample: the part of the voxels that is looked at, above 0 and up to 1; None: all. They are
            drawn evenly, one of every ``1 / sample`` at random, the same in all samples of a batch;
            of 32768 or more in runs of 32 neighbours. On a CPU it gains time from a third on down.
        seed: which voxels are drawn; give another one at every iteration.
        value_range: the values told apart: (least, greatest), a tensor ``(N, 2, 2)`` or None for
            each image's own, of the voxels that are looked at.
        sigma: of the Gaussian, in bins.
        backend: "auto", "cpu", "cuda", "triton" or "reference"; see :mod:`plasticine.backends`.

    Returns:
        ``(N,)``, float64 of float64 images and float32 of all others. 0 with a gradient of 0 for a
        sample of which nothing counts; NaN where a value that counts is NaN. Differentiable
        twice, and in forward mode, as ``joint_histogram`` is.

    Raises:
        TypeError: an argument is no tensor, or of a dtype that is not served.
        ValueError: shapes, devices or options do not fit.
        RuntimeError: the backend asked for by name is missing or cannot serve the call.

    Sources: P. Viola, W. M. Wells, "Alignment by maximization of mutual information", IJCV 24
    (1997); C. Studholme, D. L. G. Hill, D. J. Hawkes, "An overlap invariant entropy measure of 3D
    medical image alignment", Pattern Recognition 32 (1999); and those of ``joint_histogram``.
    """
    if _unknown:
        _words.refuse(mutual_information, _unknown)
    if sample is not None:
        x, y, mask = _drawn(x, y, mask, sample, _checks.count_of(seed, "seed"))
    options: Any = {"value_range": value_range, "sigma": sigma, "backend": backend}
    histogram = joint_histogram(x, y, bins=bins, kernel=kernel, mask=mask, **options)
    return information(histogram, normalized)


def information(histogram: Tensor, normalized: bool = False) -> Tensor:
    """The (normalised) mutual information of ``(N, bins, bins)`` joint histograms, ``(N,)``."""
    # Entropies are large beside their difference. Devices without float64 take what they have.
    exact = histogram if histogram.device.type == "mps" else histogram.double()
    total = exact.sum((1, 2), keepdim=True)
    joint = exact / torch.where(total == 0, 1, total)
    of_x, of_y = entropy(joint.sum(2)), entropy(joint.sum(1))
    of_both = entropy(joint.flatten(1))
    if normalized:
        found = (of_x + of_y) / torch.where(of_both == 0, 1, of_both)
    else:
        found = of_x + of_y - of_both
    return found.to(histogram.dtype)


def entropy(p: Tensor) -> Tensor:
    """``-sum p log p`` of distributions ``(N, n)``, with 0 log 0 = 0 and a finite derivative."""
    return -(p * p.clamp_min(torch.finfo(p.dtype).tiny).log()).sum(1)


# Neighbours in memory that are drawn together where there are many: a run costs what a voxel does.
_RUN = 32


def _drawn(
    x: Tensor, y: Tensor, mask: Tensor | None, sample: float, seed: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Some voxels of the images, as images of one row."""
    if not 0 < sample <= 1:
        raise ValueError(f"sample must be above 0 and up to 1, got {sample}")
    for image, name in ((x, "x"), (y, "y")):
        _checks.is_tensor(image, name)
        _checks.image_alone(image, name)
    mask = mask_of(mask, x)
    others = [(y, "y", x.shape[1])] if mask is None else [(y, "y", x.shape[1]), (mask, "mask", 1)]
    for other, name, channels in others:
        if other.shape[1:] != (channels, *x.shape[2:]):
            raise ValueError(
                f"{name} must have shape (N, {channels}, *spatial) with the voxels of x, got x of "
                f"shape {tuple(x.shape)} and {name} of shape {tuple(other.shape)}"
            )
    voxels = x.shape[2:].numel()
    run = _RUN if voxels >= _RUN**3 else 1
    first = hash_of(seed) % (voxels % run + 1)
    runs = stratified(voxels // run, sample, seed, x.device)

    def drawn(image: Tensor) -> Tensor:
        flat = image.flatten(2).narrow(2, first, voxels - voxels % run)
        return flat.unflatten(2, (voxels // run, run)).index_select(2, runs).flatten(2)[:, :, None]

    return drawn(x), drawn(y), None if mask is None else drawn(mask)
