"""Where the body is in an image, and where nothing is."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def body_mask(images: Tensor, threshold: float, opening: int, margin: int) -> Tensor:
    """Where the body is: the foreground without what is thin, and a margin around it.

    The foreground is eroded by ``opening`` voxels, which removes what is thinner than twice
    that, such as the arc of a CT's table, and dilated again.

    Args:
        images: (N, 1, *spatial) within [0, 1].
        threshold: intensity above which a voxel is foreground.
        opening: voxels of the erosion.
        margin: voxels that the mask reaches beyond what the dilation restores.

    Returns:
        (N, 1, *spatial), 0 or 1, of the images' dtype.
    """
    pool = functional.max_pool2d if images.ndim == 4 else functional.max_pool3d
    background = (images <= threshold).to(images.dtype)
    core = 1 - pool(background, 2 * opening + 1, 1, opening)
    reach = opening + margin
    return pool(core, 2 * reach + 1, 1, reach)


@torch.no_grad()
def exterior(images: Tensor, threshold: float) -> Tensor:
    """The background around the body, without the dark places inside of it.

    The voxels that a path from the image's border reaches, step by step along the axes, without
    meeting a voxel above ``threshold``.

    Args:
        images: (N, 1, *spatial), floating point, 2 or 3 spatial axes.
        threshold: intensity above which a voxel is body.

    Returns:
        (N, 1, *spatial) bool.
    """
    ndim = images.ndim - 2
    outside = images <= threshold
    reached = torch.zeros_like(outside)
    for axis in range(2, ndim + 2):
        for end in (0, images.shape[axis] - 1):
            reached.select(axis, end).copy_(outside.select(axis, end))
    while True:
        grown = reached
        for axis in range(2, ndim + 2):
            grown = _spread(grown, outside, axis)
        if torch.equal(grown, reached):
            return reached
        reached = grown


def _spread(reached: Tensor, outside: Tensor, axis: int) -> Tensor:
    """What is reached along one axis, both ways, as far as ``outside`` goes."""
    # Voxels between two walls have the same number of walls before them: a run's number. A wall
    # has that of the run after it, and is never reached itself.
    walls = (~outside).cumsum(axis)
    runs = torch.zeros_like(walls.narrow(axis, 0, 1)).repeat_interleave(walls.shape[axis] + 1, axis)
    runs = runs.scatter_reduce(axis, walls, reached.to(walls.dtype), "amax")
    return outside & (runs.gather(axis, walls) > 0)
