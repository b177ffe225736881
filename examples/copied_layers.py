"""What a project that uses TransMorph has in its files: layers and losses copied into them.

It stands for ``models/TransMorph.py`` and ``losses.py``.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SpatialTransformer(nn.Module):
    """Warps an image by a displacement in voxels."""

    def __init__(self, size, mode="bilinear"):
        super().__init__()
        self.mode = mode
        axes = torch.meshgrid(*[torch.arange(n) for n in size], indexing="ij")
        self.register_buffer("grid", torch.stack(axes)[None].float())

    def forward(self, src, flow):
        """Warps ``src`` by ``flow``."""
        where = (self.grid + flow).movedim(1, -1)
        where = 2 * where / (torch.tensor(flow.shape[2:], device=where.device) - 1) - 1
        return F.grid_sample(src, where.flip(-1), mode=self.mode, align_corners=True)


class NCC_vxm(nn.Module):  # noqa: N801 - TransMorph's name
    """The negative local cross-correlation in windows of 9 voxels."""

    def __init__(self, win=None):
        super().__init__()
        self.win = win

    def forward(self, y_true, y_pred):
        """Of two images."""
        side = 9 if self.win is None else self.win[0]
        window = torch.ones(1, 1, side, side, side, device=y_true.device)

        def total(image: Tensor) -> Tensor:
            return F.conv3d(image, window, padding=side // 2)

        x, y = total(y_true), total(y_pred)
        count = side**3
        cross = total(y_true * y_pred) - x * y / count
        x_variance = total(y_true * y_true) - x * x / count
        y_variance = total(y_pred * y_pred) - y * y / count
        return -(cross**2 / (x_variance * y_variance + 1e-5)).mean()


class Grad3d(nn.Module):
    """The mean difference of neighbours, or its square."""

    def __init__(self, penalty="l1", loss_mult=None):
        super().__init__()
        self.penalty = penalty
        self.loss_mult = loss_mult

    def forward(self, y_pred, y_true):
        """Of a field."""
        differences = [y_pred.diff(dim=axis).abs() for axis in (2, 3, 4)]
        if self.penalty == "l2":
            differences = [difference**2 for difference in differences]
        mean = sum(difference.mean() for difference in differences) / 3
        return mean if self.loss_mult is None else mean * self.loss_mult
