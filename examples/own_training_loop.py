"""Registers two images by gradient descent, without a network, in a loop of one's own.

Without this package, by ``F.grid_sample``; and with the one line that exchanges two functions.
"""

from collections.abc import Iterator
from functools import partial

import torch
from heads import two_heads
from torch import Tensor
from torch.nn import functional as F
from training_curves import arguments, compare, run

import plasticine


def warp(image: Tensor, displacement: Tensor) -> Tensor:
    """``image(p + displacement(p))``, as many write it: the border's voxels go on outside."""
    size = displacement.shape[2:]
    axes = torch.meshgrid(*[torch.arange(n) for n in size], indexing="ij")
    where = (torch.stack(axes) + displacement).movedim(1, -1)
    where = 2 * where / (torch.tensor(size) - 1) - 1
    return F.grid_sample(image, where.flip(-1), padding_mode="border", align_corners=True)


def exponential(velocity: Tensor, steps: int = 7) -> Tensor:
    """Scaling and squaring."""
    u = velocity / 2**steps
    for _ in range(steps):
        u = u + warp(u, u)
    return u


def smoothness(field: Tensor) -> Tensor:
    """The mean squared difference of neighbours: the diffusion energy."""
    return sum(field.diff(dim=axis).square().mean() for axis in (2, 3, 4)) * 3


def train(size: int, steps: int) -> Iterator[float]:
    """Moves a velocity along the gradient."""
    moving, fixed = two_heads(size)
    # Not from zero: at the centre of a voxel rounding decides which neighbour a gradient looks at.
    velocity = torch.full((1, 3, size, size, size), 0.1, requires_grad=True)
    optimizer = torch.optim.SGD([velocity], lr=2.0 * size**3, momentum=0.9)
    for _ in range(steps):
        warped = warp(moving, exponential(velocity))
        loss = F.mse_loss(warped, fixed) + 0.01 * smoothness(velocity)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


if __name__ == "__main__":
    options = arguments(__doc__)
    without = run(train(options.size, options.steps))
    warp, exponential = plasticine.warp, partial(plasticine.exponential, steps=7)  # the added line
    compare(without, run(train(options.size, options.steps)))
