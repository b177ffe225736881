"""``voxelmorph.nn.functional`` of VoxelMorph 0.3.4."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from plasticine.compat import _handover, _sampling

_MODULE = "voxelmorph.nn.functional"
_METHODS = ("linear", "nearest")
_PADDINGS = ("zeros", "border", "reflection")


def spatial_transform(
    image: Tensor,
    trf: Tensor | None,
    method: str = "linear",
    isdisp: bool = True,
    meshgrid: Tensor | None = None,
    origin_at_center: bool = True,
    non_spatial_dims: tuple[int, ...] | None = (0, 1),
    align_corners: bool = True,
    padding_mode: str = "zeros",
) -> Tensor:
    """An image at ``p + trf(p)``, on :func:`plasticine.warp`.

    Coordinates of half types are float32 here, of the image's precision there. Affine matrices,
    coordinates (``isdisp=False``), a ``meshgrid`` and one spatial axis are handed over to the
    original; so is padding by reflection without ``align_corners``.

    Args:
        image: ``(B, C, *spatial)``, or less of the first axes: see ``non_spatial_dims``. Integers
            become float32, and are integers again with "nearest".
        trf: ``(d, *spatial)`` or ``(B, d, *spatial)`` in voxels; None gives back the image.
        method: "linear" or "nearest".
        isdisp: whether ``trf`` is a displacement.
        meshgrid: the grid to which a displacement is added.
        origin_at_center: of affine matrices.
        non_spatial_dims: the first axes of the image that are not spatial, 0 to 2 of them.
        align_corners: of ``F.grid_sample``, of which the grid is normalised for True: otherwise a
            zero displacement does not give back the image.
        padding_mode: "zeros", "border" or "reflection".

    Raises:
        NotImplementedError: VoxelMorph would have to serve this and is not installed.
    """
    if trf is None:
        return image
    leading = () if non_spatial_dims is None else tuple(non_spatial_dims)
    ndim = image.dim() - len(leading)
    has_batch = trf.dim() == ndim + 2
    # A small enough field may be taken for a matrix.
    is_affine = trf.dim() <= 3 and trf.shape[-2] <= 4 and trf.shape[-1] <= 5
    precise = image if image.is_floating_point() else image.float()
    if (
        not isdisp
        or meshgrid is not None
        or is_affine
        or leading not in ((), (0,), (0, 1))
        or not is_field(trf if has_batch else trf[None], ndim)
        or method not in _METHODS
        or padding_mode not in _PADDINGS
        or (padding_mode == "reflection" and not align_corners)
        or not (precise.dtype == trf.dtype or torch.is_autocast_enabled(trf.device.type))
    ):
        original = _handover.theirs(f"{_MODULE}.spatial_transform", "this transformation")
        given: Tensor = original(
            *(image, trf, method, isdisp, meshgrid, origin_at_center),
            *(non_spatial_dims, align_corners, padding_mode),
        )
        return given
    precise = precise[(None,) * (2 - len(leading))]
    field = trf if has_batch else trf[None]
    options: dict[str, Any] = {"padding": padding_mode, "align_corners": align_corners}
    found = _sampling.sample(precise, field, mode=method, **options)
    for _ in range(2 - len(leading)):
        found = found.squeeze(0)
    is_label = method == "nearest" and not image.is_floating_point()
    return found.to(image.dtype) if is_label else found


def integrate_vec(
    vec: Tensor,
    steps: int,
    meshgrid: Tensor | None = None,
    non_spatial_dims: tuple[int, ...] | None = (0,),
    scale: float | None = None,
    transformer: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Scaling and squaring, on :func:`plasticine.exponential`, with zeros outside of the grid.

    Near an edge that the velocity crosses the result is wrong by voxels, as VoxelMorph's is;
    ``plasticine.exponential`` continues the field there. A ``meshgrid``, one spatial axis and a
    negative number of steps are handed over to the original.

    Args:
        vec: ``(B, d, *spatial)`` or, without ``non_spatial_dims``, ``(d, *spatial)`` in voxels.
        steps: number of squarings.
        meshgrid: the grid to which displacements are added.
        non_spatial_dims: ``(0,)`` or None.
        scale: of the velocity before them; None for ``2 ** -steps``.
        transformer: warps a field by a displacement in place of :func:`spatial_transform`.

    Raises:
        NotImplementedError: VoxelMorph would have to serve this and is not installed.
    """
    if steps == 0:
        return vec if scale is None else vec * scale
    if transformer is not None and steps > 0:
        u = vec / 2**steps if scale is None else vec * scale
        for _ in range(steps):
            u = u + transformer(u, u)
        return u
    field = vec if non_spatial_dims else vec[None]
    if steps < 0 or meshgrid is not None or not is_field(field, field.dim() - 2):
        original = _handover.theirs(f"{_MODULE}.integrate_vec", "this field")
        given: Tensor = original(vec, steps, meshgrid, non_spatial_dims, scale, transformer)
        return given
    found = _sampling.integrate(field, steps, scale)
    return found if non_spatial_dims else found[0]


def is_field(field: Tensor, ndim: int) -> bool:
    """Whether a tensor is one that the operators take for a field of that many dimensions."""
    return (
        ndim in (2, 3)
        and field.dim() == ndim + 2
        and field.shape[1] == ndim
        and field.is_floating_point()
    )
