"""What originals and drop-ins are run on before the one is replaced by the other: a few voxels."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def tensor(*shape: int) -> Tensor:
    """Numbers of a size of one, as smooth as noise, where copies that need a GPU find them."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    numbers = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    return numbers.to(device)


def images() -> tuple[Tensor, Tensor]:
    """Two, ``(1, 1, 12, 11, 10)``."""
    first, second = tensor(2, 1, 12, 11, 10)[:, None].unbind()
    return first, second


def field() -> Tensor:
    """A displacement, ``(1, 3, 5, 6, 7)``, that reaches out of the grid."""
    return 6 * tensor(1, 3, 5, 6, 7) - 3


def transformer(module: Callable[..., Any]) -> Tensor:
    """Of VoxelMorph 0.2, as those that follow."""
    warped: Tensor = module((5, 6, 7)).to(field().device)(tensor(1, 1, 5, 6, 7), field())
    return warped


def integration(module: Callable[..., Any]) -> Tensor:
    """See :func:`transformer`."""
    integrated: Tensor = module((5, 6, 7), 3).to(field().device)(field())
    return integrated


def resizing(module: Callable[..., Any]) -> Tensor:
    """See :func:`transformer`."""
    resized: Tensor = module(2, 3)(field())
    return resized


def similarity(loss: Callable[..., Any]) -> Tensor:
    """See :func:`transformer`."""
    found: Tensor = loss().loss(*images())
    return found


def smoothness(loss: Callable[..., Any]) -> Tensor:
    """See :func:`transformer`."""
    found: Tensor = loss("l2", loss_mult=2).loss(None, field())
    return found


def monai_warp(module: Callable[..., Any]) -> Tensor:
    """Of MONAI, as those that follow."""
    with warnings.catch_warnings():  # it warns that it was not compiled
        warnings.simplefilter("ignore")
        layer = module()
    warped: Tensor = layer(tensor(1, 1, 5, 6, 7), field())
    return warped


def monai_integration(module: Callable[..., Any]) -> Tensor:
    """See :func:`monai_warp`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = module(3)
    integrated: Tensor = layer(field())
    return integrated


def monai_correlation(loss: Callable[..., Any]) -> Tensor:
    """See :func:`monai_warp`."""
    return torch.stack([loss(3, 5, kernel)(*images()) for kernel in ("rectangular", "gaussian")])


def monai_information(loss: Callable[..., Any]) -> Tensor:
    """See :func:`monai_warp`."""
    return torch.stack([loss(kernel)(*images()) for kernel in ("gaussian", "b-spline")])


def monai_energy(loss: Callable[..., Any]) -> Tensor:
    """See :func:`monai_warp`."""
    return torch.stack([loss(normalize)(field()) for normalize in (False, True)])
