"""Trains MONAI's VoxelMorph, without and with the one line that makes it faster."""

from collections.abc import Iterator

import torch
from heads import two_heads
from monai.losses import BendingEnergyLoss, GlobalMutualInformationLoss
from monai.networks.nets import VoxelMorph, VoxelMorphUNet
from training_curves import arguments, compare, run

import plasticine


def train(size: int, steps: int) -> Iterator[float]:
    """A training as MONAI's tutorials have it."""
    torch.manual_seed(0)
    moving, fixed = two_heads(size)
    network = VoxelMorphUNet(
        spatial_dims=3,
        in_channels=2,
        unet_out_channels=8,
        channels=(8, 8, 16, 16, 16, 16),
        final_conv_channels=(8, 8),
    )
    model = VoxelMorph(network, integration_steps=7, half_res=True)
    similarity = GlobalMutualInformationLoss(kernel_type="b-spline", num_bins=32)
    smoothness = BendingEnergyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(steps):
        warped, field = model(moving, fixed)
        loss = similarity(warped, fixed) + 0.1 * smoothness(field)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


if __name__ == "__main__":
    options = arguments(__doc__)
    without = run(train(options.size, options.steps))
    print(plasticine.compat.patch("monai"))  # the one added line
    compare(without, run(train(options.size, options.steps)))
