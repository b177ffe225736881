"""``voxelmorph.nn.modules`` of VoxelMorph 0.3.4."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from plasticine.compat import _handover
from plasticine.compat.voxelmorph import functional


def is_watched(layer: nn.Module) -> bool:
    """Whether a layer's calls are seen, or changed, by hooks or by an exchanged ``forward``."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer))


class SpatialTransformer(_handover.DropIn, nn.Module):
    """An image at ``p + u(p)``, with zeros outside of it: :func:`spatial_transform`."""

    def __init__(
        self, interpolation_mode: str = "linear", align_corners: bool = True, device: Any = None
    ) -> None:
        """Fixes the options.

        Args:
            interpolation_mode: "linear" or "nearest".
            align_corners: see :func:`spatial_transform`.
            device: not used.
        """
        super().__init__()
        self.interpolation_mode = interpolation_mode
        self.align_corners = align_corners

    def forward(self, moving_image: Tensor, deformation_field: Tensor) -> Tensor:
        """Warps ``(B, C, *spatial)`` by ``(B, d, *spatial)`` voxels.

        Raises:
            AssertionError: there are fewer than four axes, or not as many in both.
        """
        assert moving_image.dim() >= 4, (
            f"moving_image must be (B, C, *spatial), got shape {tuple(moving_image.shape)}"
        )
        assert deformation_field.dim() == moving_image.dim(), (
            "deformation_field must have as many axes as moving_image, got shapes "
            f"{tuple(deformation_field.shape)} and {tuple(moving_image.shape)}"
        )
        return functional.spatial_transform(
            moving_image,
            deformation_field,
            method=self.interpolation_mode,
            align_corners=self.align_corners,
        )

    def extra_repr(self) -> str:
        """The options."""
        return f"{self.interpolation_mode!r}, align_corners={self.align_corners}"


class IntegrateVelocityField(_handover.DropIn, nn.Module):
    """Scaling and squaring with zeros outside of the grid: :func:`integrate_vec`."""

    def __init__(
        self,
        shape: tuple[int, ...] | None = None,
        steps: int = 1,
        interpolation_mode: str = "linear",
        align_corners: bool = True,
        device: str | None = None,
    ) -> None:
        """Fixes the options.

        Args:
            shape: not used.
            steps: number of squarings, 0 or more.
            interpolation_mode: "linear" or "nearest".
            align_corners: see :func:`spatial_transform`.
            device: not used.

        Raises:
            AssertionError: ``steps`` is negative.
        """
        super().__init__()
        assert steps >= 0, f"steps must be 0 or more, got {steps}"
        self.steps = steps
        self.scale = 1.0 / 2**steps
        self.transformer = SpatialTransformer(interpolation_mode, align_corners)

    def forward(self, velocity_field: Tensor) -> Tensor:
        """The displacement of a velocity ``(B, d, *spatial)`` in voxels."""
        layer = self.transformer
        plain = (
            type(layer) is SpatialTransformer
            and layer.interpolation_mode == "linear"
            and layer.align_corners
            and not is_watched(layer)
        )
        return functional.integrate_vec(
            velocity_field,
            self.steps,
            scale=self.scale,
            transformer=None if plain else layer,
        )

    def extra_repr(self) -> str:
        """The options."""
        return f"steps={self.steps}"


class ResizeDisplacementField(_handover.DropIn, nn.Module):
    """A displacement on a grid of another size, in voxels of that.

    The resampling is PyTorch's, as in VoxelMorph; the values are scaled where there are fewer.
    """

    def __init__(
        self,
        scale_factor: float | None = 1.0,
        interpolation_mode: str = "linear",
        align_corners: bool = True,
    ) -> None:
        """Fixes the options.

        Args:
            scale_factor: new size / old size.
            interpolation_mode: "linear", or a mode of ``F.interpolate``.
            align_corners: of ``F.interpolate``.
        """
        super().__init__()
        self.interpolation_mode = interpolation_mode
        self.align_corners = align_corners
        self.scale_factor = scale_factor

    def forward(self, disp: Tensor) -> Tensor:
        """Resizes ``(B, d, *spatial)``."""
        mode = self.interpolation_mode
        if mode == "linear":
            mode = ("linear", "bilinear", "trilinear")[disp.dim() - 3]
        factor: Any = self.scale_factor
        options: dict[str, Any] = {"mode": mode, "align_corners": self.align_corners}
        if factor < 1:
            return F.interpolate(disp, scale_factor=factor, **options) * factor
        return F.interpolate(disp * factor, scale_factor=factor, **options)
