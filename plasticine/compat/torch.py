"""For code that samples with PyTorch alone: ``grid_sample_displacement`` and ``F.grid_sample``.

``patch("torch")``, or ``with patched("torch"):``, serves ``torch.nn.functional.grid_sample`` where
the result is the same and comes sooner: volumes in float32 or float64 on a CPU, in modes "bilinear"
and "nearest", with every padding and both values of ``align_corners``. Every other call, errors
included, goes to PyTorch as it came: images (2D), half types, autocast of several dtypes, CUDA,
tensor subclasses, grids of fewer than 4096 places, and what ``torch.compile`` or
``torch.jit.trace`` trace. Of images and of small grids PyTorch's own is at least as fast.
``torch.jit.script`` cannot compile what is served: ``unpatch`` before it.

``F.affine_grid`` is put off on a CPU, of volumes and, from 16384 places on, of images (2D).
``F.grid_sample`` of its result, in mode "bilinear", takes the matrix, and no grid is made; all else
that PyTorch does with it is done with the true grid, which is made then. What is sampled has
gradients to ``theta`` and to the image, not to the grid between them: for one to it, by
``torch.autograd.grad``, ask ``grid.requires_grad`` or ``grid.retain_grad()`` before.
``nn.Parameter``, and extensions that read its memory themselves, refuse it: give them
``grid.clone()``.

One result differs: a NaN coordinate gives NaN; PyTorch gives 0, or a border voxel. So does an
infinite one with padding "reflection".
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional

from plasticine.compat._affine_grids import AFFINE_GRID, AffineGrid
from plasticine.compat._bounds import folded
from plasticine.compat._patching import Replacement
from plasticine.ops.warp import warp

# As they were when this module was imported, which patch does before it replaces anything.
_GRID_SAMPLE = functional.grid_sample

_MODES = {"bilinear": "linear", "nearest": "nearest", "bicubic": "cubic"}
_PADDINGS = ("zeros", "border", "reflection")
_PLAIN = (Tensor, torch.nn.Parameter)
# Below, a call's overhead in Python takes more time than the kernel saves.
_FEWEST_COORDINATES = 3 * 4096
_FEWEST_PLACES = {4: 16384, 5: 4096}  # of a grid that is not made, by its image's axes


def grid_sample_displacement(
    input: Tensor,
    displacement: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
) -> Tensor:
    """Samples where a displacement points: ``grid_sample`` at ``identity + displacement``.

    Equals ``F.grid_sample(input, F.affine_grid(identity, size, align_corners) + displacement,
    mode, padding_mode, align_corners)``, without a grid: coordinates are computed in float32 or
    wider from voxel indices, so that a small displacement keeps its digits.

    Args:
        input: ``(N, C, H, W)`` or ``(N, C, D, H, W)``, float32, float64, float16 or bfloat16.
        displacement: ``(N, H', W', 2)`` or ``(N, D', H', W', 3)``: x first, in the normalised
            coordinates of ``grid_sample``, whose unit is half the width of the input. Of the
            input's dtype, or float32 with a half input. The result has its spatial size.
        mode: "bilinear", "nearest" or "bicubic"; the latter in 3D, too.
        padding_mode: "zeros", "border" or "reflection".
        align_corners: whether -1 and 1 are the centres of the outermost voxels, or their edges.

    Returns:
        ``(N, C, H', W')`` or ``(N, C, D', H', W')`` in the input's dtype; differentiable with
        respect to both.

    Raises:
        TypeError: a dtype is not served.
        ValueError: shapes, devices or options do not fit; "bicubic" in 3D with "reflection" and
            without ``align_corners``.
    """
    ndim = input.dim() - 2
    if ndim not in (2, 3) or displacement.dim() != ndim + 2 or displacement.shape[-1] != ndim:
        raise ValueError(
            "input must have shape (N, C, H, W) and displacement (N, H', W', 2), or (N, C, D, H, W)"
            f" and (N, D', H', W', 3); got {tuple(input.shape)} and {tuple(displacement.shape)}"
        )
    if mode not in _MODES:
        raise ValueError(f"mode must be one of {', '.join(_MODES)}, got {mode!r}")
    if padding_mode not in _PADDINGS:
        raise ValueError(
            f"padding_mode must be one of {', '.join(_PADDINGS)}, got {padding_mode!r}"
        )
    size, spatial = input.shape[2:], displacement.shape[1:-1]
    if padding_mode == "reflection" and not align_corners:
        # Reflected about the voxels' edges, which no displacement is padded by.
        if mode == "bicubic" and ndim == 3:
            raise ValueError("padding_mode 'reflection' of 3D 'bicubic' needs align_corners=True")
        theta = torch.eye(ndim, ndim + 1, dtype=displacement.dtype, device=displacement.device)
        shape = [displacement.shape[0], 1, *spatial]
        identity = AFFINE_GRID(theta.expand(shape[0], -1, -1), shape, align_corners)
        return _GRID_SAMPLE(input, identity + displacement, mode, padding_mode, align_corners)
    components = reversed(displacement.unbind(-1))
    half = [(n - align_corners) / 2 for n in size]
    voxels = torch.stack([x * scale for x, scale in zip(components, half, strict=True)], 1)
    affine = None if size == spatial else _between(size, spatial, align_corners, voxels)
    return warp(input, voxels, affine=affine, mode=_MODES[mode], padding=padding_mode)


def _between(
    size: Sequence[int], spatial: Sequence[int], align_corners: bool, like: Tensor
) -> Tensor:
    """The affine ``(1, d, d + 1)`` in voxels from a grid to another of the same extent."""
    affine = like.new_zeros(1, len(size), len(size) + 1)
    for axis, (n, length) in enumerate(zip(size, spatial, strict=True)):
        if not align_corners:
            affine[:, axis, axis] = n / length
            affine[:, axis, -1] = (n / length - 1) / 2
        elif length > 1:
            affine[:, axis, axis] = (n - 1) / (length - 1)
        else:  # in the middle
            affine[:, axis, -1] = (n - 1) / 2
    return affine


def grid_sample(
    input: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Tensor:
    """``torch.nn.functional.grid_sample``, faster for volumes on a CPU.

    Args:
        input: as PyTorch takes it.
        grid: the same.
        mode: the same.
        padding_mode: the same.
        align_corners: the same.

    Returns:
        As PyTorch does: to float tolerance where Plasticine serves the call, which does not round
        coordinates in the same places.
    """
    if type(grid) is AffineGrid:
        if _is_served_affine(input, grid, mode, padding_mode, align_corners):
            affine = grid.affine(input.shape[2:], bool(align_corners))
            if affine is not None:
                nowhere = input.new_zeros(()).expand(1, affine.shape[1], *grid._size[2:])
                return warp(input, nowhere, affine=affine, padding=padding_mode)
        grid = grid.made()
    if not _is_served(input, grid, mode, padding_mode):
        return _GRID_SAMPLE(input, grid, mode, padding_mode, align_corners)
    if align_corners is None:
        warnings.warn(
            "Default grid_sample and affine_grid behavior has changed to align_corners=False since "
            "1.3.0. Please specify align_corners=True if the old behavior is desired. See the "
            "documentation of grid_sample for details.",
            stacklevel=2,
        )
        align_corners = False
    is_folded = padding_mode == "reflection" and not align_corners  # about the voxels' edges
    places = []
    for x, n in zip(reversed(grid.unbind(-1)), input.shape[2:], strict=True):
        scale, centre = (n - align_corners) / 2, (n - 1) / 2
        if mode == "nearest":  # rounded as PyTorch does, for halves
            place = (x + 1) * scale - (scale - centre)
        else:
            place = torch.add(x.new_full((), centre), x, alpha=scale)  # a pass fewer
        places.append(folded(place, n, "dct2")[0] if is_folded else place)
    padding = "border" if is_folded else padding_mode  # for the half voxel that is left outside
    nowhere = grid.new_zeros(1, 3, 4)  # in place of the identity
    return warp(input, torch.stack(places, 1), affine=nowhere, mode=_MODES[mode], padding=padding)


def _is_served(input: Tensor, grid: Tensor, mode: str, padding_mode: str) -> bool:
    return (
        not _is_traced()
        and type(input) in _PLAIN
        and type(grid) in _PLAIN
        and input.dim() == grid.dim() == 5
        and input.is_cpu
        and grid.is_cpu
        and input.dtype == grid.dtype
        and input.dtype in (torch.float32, torch.float64)
        and grid.shape[-1] == 3
        and grid.shape[0] == input.shape[0]
        and grid.numel() >= _FEWEST_COORDINATES
        and input.numel() > 0
        and mode in ("bilinear", "nearest")
        and padding_mode in _PADDINGS
    )


def affine_grid(theta: Tensor, size: list[int], align_corners: bool | None = None) -> Tensor:
    """``torch.nn.functional.affine_grid``, put off on a CPU.

    Args:
        theta: as PyTorch takes it.
        size: the same.
        align_corners: the same.

    Returns:
        As PyTorch does, or a tensor of a subclass that makes it when it is asked for.
    """
    if align_corners is None or not _is_put_off(theta, size, align_corners):
        return AFFINE_GRID(theta, size, align_corners)
    return AffineGrid.put_off(theta, size, align_corners)


def _is_put_off(theta: Tensor, size: Sequence[int], align_corners: bool) -> bool:
    return (
        not _is_traced()
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._len_torch_dispatch_stack()
        and not torch.is_inference_mode_enabled()
        and forward_ad._current_level < 0
        and type(theta) in _PLAIN
        and theta.is_cpu
        and theta.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and len(size) in _FEWEST_PLACES
        and all(type(n) is int and n > 0 for n in size)
        and not (align_corners and 1 in size[2:])  # of which PyTorch warns
        and theta.shape == (size[0], len(size) - 2, len(size) - 1)
        and math.prod(size) // size[1] >= _FEWEST_PLACES[len(size)]
    )


def _is_traced() -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def _is_served_affine(
    input: Tensor, grid: AffineGrid, mode: str, padding_mode: str, align_corners: bool | None
) -> bool:
    return (
        align_corners is not None
        and not _is_traced()
        and type(input) in _PLAIN
        and input.dim() == len(grid._size)
        and input.is_cpu
        and input.dtype == grid._theta.dtype
        and input.shape[0] == grid._size[0]
        and input.numel() > 0
        and mode == "bilinear"  # "nearest" rounds halves, which another rounding is the end of
        and (
            padding_mode in ("zeros", "border") or (padding_mode == "reflection" and align_corners)
        )
    )


REPLACEMENTS = (
    Replacement("torch.nn.functional.grid_sample", grid_sample),
    Replacement("torch.nn.functional.affine_grid", affine_grid),
)
