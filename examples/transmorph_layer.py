"""Trains with TransMorph's layers, without and with the one line that makes them faster.

TransMorph is no package: whoever uses it has its layers in files of their own. Here these are in
``copied_layers.py``, and a few convolutions stand for the network.
"""

from collections.abc import Iterator

import copied_layers
import torch
from heads import two_heads
from torch import Tensor, nn
from training_curves import arguments, compare, run

import plasticine


class Network(nn.Module):
    """A field from two images, and the first of these warped by it."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv3d(2, 8, 3, padding=1, stride=2),
            nn.LeakyReLU(),
            nn.Conv3d(8, 8, 3, padding=1),
            nn.LeakyReLU(),
            nn.Upsample(size=(size, size, size), mode="trilinear"),
            nn.Conv3d(8, 3, 3, padding=1),
        )
        self.spatial_trans = copied_layers.SpatialTransformer((size, size, size))

    def forward(self, moving: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
        """The warped image and the field."""
        flow = self.convolutions(torch.cat([moving, fixed], 1))
        return self.spatial_trans(moving, flow), flow


def train(size: int, steps: int) -> Iterator[float]:
    """A training as TransMorph's scripts have it."""
    torch.manual_seed(0)
    moving, fixed = two_heads(size)
    model = Network(size)
    similarity, smoothness = copied_layers.NCC_vxm(), copied_layers.Grad3d(penalty="l2")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(steps):
        warped, flow = model(moving, fixed)
        loss = similarity(warped, fixed) + smoothness(flow, fixed)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


if __name__ == "__main__":
    options = arguments(__doc__)
    without = run(train(options.size, options.steps))
    print(plasticine.compat.patch("transmorph", copied_layers))  # the one added line
    compare(without, run(train(options.size, options.steps)))
