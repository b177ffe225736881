"""The adjoint warp as a module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from torch import Tensor, nn

from plasticine import ops
from plasticine.ops import _checks, _words


class Splat(nn.Module):
    """Adds an image up where it points: :func:`plasticine.splat` with its options fixed."""

    def __init__(
        self,
        mode: str = "linear",
        padding: str = "border",
        *,
        prefilter: bool = True,
        backend: str = "auto",
        **_unknown: NoReturn,
    ) -> None:
        """Fixes the options.

        Args:
            mode: "linear", "nearest", "cubic" or "bspline".
            padding: "zeros", "border" or "reflection".
            prefilter: of "bspline" alone: whether it is the adjoint of a warp that prefilters.
            backend: which backend serves it.

        Raises:
            ValueError: an option is not one of these.
        """
        if _unknown:
            _words.refuse(Splat, _unknown)
        super().__init__()
        _checks.one_of(mode, "mode", _checks.SAMPLING_MODES)
        _checks.one_of(padding, "padding", _checks.PADDINGS)
        self.mode = mode
        self.padding = padding
        self.prefilter = prefilter
        self.backend = backend

    @_words.checks_inside
    def forward(
        self,
        image: Tensor,
        displacement: Tensor,
        affine: Tensor | None = None,
        size: Sequence[int] | None = None,
        **_unknown: NoReturn,
    ) -> Tensor:
        """Splats ``(N, C, *s)`` by ``(N, d, *s)`` voxels, and maybe an affine, into ``size``."""
        if _unknown:
            _words.refuse(self.forward, _unknown)
        return ops.splat(
            image,
            displacement,
            affine=affine,
            size=size,
            mode=self.mode,
            padding=self.padding,
            prefilter=self.prefilter,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        """The options."""
        prefilter = f"prefilter={self.prefilter}, " if self.mode == "bspline" else ""
        return f"mode={self.mode!r}, padding={self.padding!r}, {prefilter}backend={self.backend!r}"
