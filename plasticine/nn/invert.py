"""The inverse of a displacement as a module."""

from __future__ import annotations

from typing import NoReturn

from torch import Tensor, nn

from plasticine import ops
from plasticine.ops import _checks, _words


class Invert(nn.Module):
    """Inverts a displacement: :func:`plasticine.invert` with its options fixed."""

    def __init__(
        self,
        *,
        tolerance: float = 1e-3,
        iterations: int = 100,
        padding: str = "border",
        backend: str = "auto",
        **_unknown: NoReturn,
    ) -> None:
        """Fixes the options.

        Args:
            tolerance: the largest residual wanted, in voxels.
            iterations: the most steps in a voxel.
            padding: how the field continues outside its grid: "zeros", "border" or "reflection".
            backend: which backend serves it.

        Raises:
            TypeError: ``iterations`` is no int.
            ValueError: an option is not one of these.
        """
        if _unknown:
            _words.refuse(Invert, _unknown)
        super().__init__()
        _checks.one_of(padding, "padding", _checks.PADDINGS)
        self.tolerance = tolerance
        self.iterations = _checks.count_of(iterations, "iterations")
        self.padding = padding
        self.backend = backend

    @_words.checks_inside
    def forward(self, displacement: Tensor, **_unknown: NoReturn) -> ops.Inverse:
        """The inverse of an ``(N, d, *s)`` displacement in voxels, with its residual."""
        if _unknown:
            _words.refuse(self.forward, _unknown)
        return ops.invert(
            displacement,
            tolerance=self.tolerance,
            iterations=self.iterations,
            padding=self.padding,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        """The options."""
        return (
            f"tolerance={self.tolerance}, iterations={self.iterations}, "
            f"padding={self.padding!r}, backend={self.backend!r}"
        )
