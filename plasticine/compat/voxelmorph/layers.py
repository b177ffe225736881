"""``voxelmorph.torch.layers`` of VoxelMorph 0.2, which many projects have copied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plasticine.compat import _handover, _sampling
from plasticine.compat.voxelmorph.modules import is_watched

_MODES = {"bilinear": "linear", "nearest": "nearest", "bicubic": "cubic"}


class SpatialTransformer(_handover.DropIn, nn.Module):
    """An image at ``p + flow(p)``, with zeros outside of it, on :func:`plasticine.warp`.

    The original keeps the identity grid as a buffer, three times the size of an image. Here there
    is none; it is only written into checkpoints, so that the original reads these, and those of the
    original are read, with ``strict``, too. Coordinates of half types are float32.
    """

    align_corners = True

    def __init__(self, size: Sequence[int], mode: str = "bilinear") -> None:
        """Fixes the options.

        Args:
            size: of the field.
            mode: "bilinear", "nearest" or "bicubic".

        Raises:
            ValueError: ``mode`` is none of these.
        """
        super().__init__()
        if mode not in _MODES:
            raise ValueError(f"mode must be one of {', '.join(_MODES)}, got {mode!r}")
        self.size = tuple(int(n) for n in size)
        self.mode = mode

    def forward(self, src: Tensor, flow: Tensor) -> Tensor:
        """Warps ``(N, C, *spatial)`` by ``(N, d, *size)`` voxels.

        Raises:
            RuntimeError: the field is of another size.
        """
        if flow.shape[2:] != self.size:
            raise RuntimeError(
                f"flow must have the size {self.size}, got shape {tuple(flow.shape)}"
            )
        options: dict[str, Any] = {"mode": _MODES[self.mode], "align_corners": self.align_corners}
        return _sampling.sample(src, flow, **options)

    @property
    def grid(self) -> Tensor:
        """The identity: ``(1, d, *size)``."""
        axes = torch.meshgrid(*(torch.arange(n) for n in self.size), indexing="ij")
        return torch.stack(axes)[None].float()

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}grid"] = self.grid

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *others: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *others)
        *_, unexpected, errors = others
        name = f"{prefix}grid"
        if name in unexpected:
            unexpected.remove(name)
        shape = (1, len(self.size), *self.size)
        if name in state_dict and state_dict[name].shape != shape:
            errors.append(
                f"size mismatch for {name}: it has shape {tuple(state_dict[name].shape)} in the "
                f"checkpoint, and would have {shape} here"
            )

    def extra_repr(self) -> str:
        """The options."""
        return f"size={self.size}, mode={self.mode!r}"


class VecInt(_handover.DropIn, nn.Module):
    """Scaling and squaring with zeros outside of the grid, on :func:`plasticine.exponential`.

    Near an edge that the velocity crosses the result is wrong by voxels, as the original's is;
    ``plasticine.exponential`` continues the field there.
    """

    transformer_class = SpatialTransformer

    def __init__(self, inshape: Sequence[int], nsteps: int) -> None:
        """Fixes the options.

        Args:
            inshape: the size of the field.
            nsteps: number of squarings.

        Raises:
            AssertionError: ``nsteps`` is negative.
        """
        super().__init__()
        assert nsteps >= 0, f"nsteps must be 0 or more, got {nsteps}"
        self.nsteps = nsteps
        self.scale = 1.0 / 2**nsteps
        self.transformer = self.transformer_class(inshape)

    def forward(self, vec: Tensor) -> Tensor:
        """The displacement of a velocity ``(N, d, *inshape)`` in voxels."""
        layer = self.transformer
        plain = layer.align_corners and layer.mode == "bilinear" and vec.shape[2:] == layer.size
        if plain and not is_watched(layer):
            return _sampling.integrate(vec, self.nsteps)
        vec = vec * self.scale
        for _ in range(self.nsteps):
            vec = vec + layer(vec, vec)
        return vec

    def extra_repr(self) -> str:
        """The options."""
        return f"nsteps={self.nsteps}"


class ResizeTransform(_handover.DropIn, nn.Module):
    """A displacement on a grid of another size, in voxels of that; PyTorch's own resampling."""

    def __init__(self, vel_resize: float, ndims: int) -> None:
        """Fixes the options.

        Args:
            vel_resize: old size / new size.
            ndims: 1, 2 or 3.
        """
        super().__init__()
        self.factor = 1.0 / vel_resize
        self.mode = {2: "bilinear", 3: "trilinear"}.get(ndims, "linear")

    def forward(self, x: Tensor) -> Tensor:
        """Resizes ``(N, d, *spatial)``."""
        options: dict[str, Any] = {"mode": self.mode, "align_corners": True}
        if self.factor < 1:  # scaled where there are fewer values
            return F.interpolate(x, scale_factor=self.factor, **options) * self.factor
        if self.factor > 1:
            return F.interpolate(x * self.factor, scale_factor=self.factor, **options)
        return x
