"""What projects that copied VoxelMorph's layers of 0.2 compute, written anew in plain PyTorch."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import nn
from torch.nn import functional as F


def copied_layers(align_corners: bool = True, needs_a_gpu: bool = False) -> ModuleType:
    """A module as such a project has it; some copies run on a GPU alone."""

    class SpatialTransformer(nn.Module):
        def __init__(self, size, mode="bilinear"):
            super().__init__()
            self.mode = mode
            axes = torch.meshgrid(*[torch.arange(n) for n in size], indexing="ij")
            self.register_buffer("grid", torch.stack(axes)[None].float())

        def forward(self, src, flow):
            if needs_a_gpu:
                raise AssertionError("Torch not compiled with CUDA enabled")
            position = (self.grid + flow).movedim(1, -1)
            size = torch.tensor(flow.shape[2:])
            position = 2 * position / (size - 1) - 1
            options = {"mode": self.mode, "align_corners": align_corners}
            return F.grid_sample(src, position.flip(-1), **options)

    class VecInt(nn.Module):
        def __init__(self, inshape, nsteps):
            super().__init__()
            self.nsteps = nsteps
            self.transformer = SpatialTransformer(inshape)

        def forward(self, vec):
            vec = vec / 2**self.nsteps
            for _ in range(self.nsteps):
                vec = vec + self.transformer(vec, vec)
            return vec

    class ResizeTransform(nn.Module):
        def __init__(self, vel_resize, ndims):
            super().__init__()
            self.factor = 1 / vel_resize
            self.mode = {2: "bilinear", 3: "trilinear"}[ndims]

        def forward(self, x):
            options = {"mode": self.mode, "align_corners": True}
            return F.interpolate(x, scale_factor=self.factor, **options) * self.factor

    class register_model(nn.Module):  # noqa: N801
        def __init__(self, img_size=(64, 256, 256), mode="bilinear"):
            super().__init__()
            self.spatial_trans = SpatialTransformer(img_size, mode)

        def forward(self, x):
            return self.spatial_trans(x[0], x[1])

    class NCC_vxm(nn.Module):  # noqa: N801
        def __init__(self, win=None):
            super().__init__()
            self.win = win

        def forward(self, y_true, y_pred):
            side = 9 if self.win is None else self.win[0]
            ndim = y_true.dim() - 2
            filters = torch.ones(1, 1, *[side] * ndim, dtype=y_true.dtype)
            convolution = getattr(F, f"conv{ndim}d")
            pairs = {"x": (y_true,), "y": (y_pred,), "xx": (y_true, y_true)}
            pairs |= {"yy": (y_pred, y_pred), "xy": (y_true, y_pred)}
            sums = {
                name: convolution(factors[0] * factors[-1] if len(name) == 2 else factors[0],
                                  filters, padding=side // 2)
                for name, factors in pairs.items()
            }  # fmt: skip
            count = side**ndim
            cross = sums["xy"] - sums["x"] * sums["y"] / count
            x_variance = sums["xx"] - sums["x"] ** 2 / count
            y_variance = sums["yy"] - sums["y"] ** 2 / count
            return -(cross**2 / (x_variance * y_variance + 1e-5)).mean()

    class Grad3d(nn.Module):
        def __init__(self, penalty="l1", loss_mult=None):
            super().__init__()
            self.penalty = penalty
            self.loss_mult = loss_mult

        def forward(self, y_pred, y_true):
            power = 2 if self.penalty == "l2" else 1
            axes = range(2, y_pred.dim())
            means = [y_pred.diff(dim=axis).abs().pow(power).mean() for axis in axes]
            return sum(means) / len(means) * (1 if self.loss_mult is None else self.loss_mult)

    class Grad(Grad3d):
        pass

    module = ModuleType("copied_layers_of_a_project")
    found = (SpatialTransformer, VecInt, ResizeTransform, register_model, NCC_vxm, Grad3d, Grad)
    for layer in found:
        setattr(module, layer.__name__, layer)
    return module
