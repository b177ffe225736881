"""The displacement operators as modules."""

from __future__ import annotations

from typing import Literal, NoReturn

from torch import Tensor, nn

from plasticine import ops
from plasticine.ops import _checks, _words


class Warp(nn.Module):
    """Samples an image at ``p + u(p)``: :func:`plasticine.warp` with its options fixed."""

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
            prefilter: of "bspline" alone: whether the spline passes through the image.
            backend: which backend serves it.

        Raises:
            ValueError: an option is not one of these.
        """
        if _unknown:
            _words.refuse(Warp, _unknown)
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
        **_unknown: NoReturn,
    ) -> Tensor:
        """Warps ``(N, C, *s)`` by ``(N, d, *s)`` voxels and maybe an ``(N, d, d + 1)`` affine."""
        if _unknown:
            _words.refuse(self.forward, _unknown)
        return ops.warp(
            image,
            displacement,
            affine=affine,
            mode=self.mode,
            padding=self.padding,
            prefilter=self.prefilter,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        """The options."""
        prefilter = f"prefilter={self.prefilter}, " if self.mode == "bspline" else ""
        return f"mode={self.mode!r}, padding={self.padding!r}, {prefilter}backend={self.backend!r}"


class Compose(nn.Module):
    """The displacement of ``(id + u) o (id + v)``: :func:`plasticine.compose`, options fixed."""

    def __init__(
        self, padding: str = "border", *, backend: str = "auto", **_unknown: NoReturn
    ) -> None:
        """Fixes the options.

        Args:
            padding: how ``u`` continues outside its grid: "zeros", "border" or "reflection".
            backend: which backend serves it.

        Raises:
            ValueError: ``padding`` is not one of these.
        """
        if _unknown:
            _words.refuse(Compose, _unknown)
        super().__init__()
        _checks.one_of(padding, "padding", _checks.PADDINGS)
        self.padding = padding
        self.backend = backend

    @_words.checks_inside
    def forward(self, u: Tensor, v: Tensor, **_unknown: NoReturn) -> Tensor:
        """``u(p + v(p)) + v(p)`` of two ``(N, d, *s)`` displacements in voxels."""
        if _unknown:
            _words.refuse(self.forward, _unknown)
        return ops.compose(u, v, padding=self.padding, backend=self.backend)

    def extra_repr(self) -> str:
        """The options."""
        return f"padding={self.padding!r}, backend={self.backend!r}"


class Exponential(nn.Module):
    """Integrates a stationary velocity field: :func:`plasticine.exponential`, options fixed."""

    def __init__(
        self,
        steps: int | Literal["auto"] = 7,
        *,
        method: str = "euler",
        padding: str = "border",
        inverse: bool = False,
        checkpoint: str = "store",
        backend: str = "auto",
        **_unknown: NoReturn,
    ) -> None:
        """Fixes the options.

        Args:
            steps: number of squarings, or "auto": chosen in each call.
            method: "euler", "midpoint" or "rk4".
            padding: how the field continues outside its grid: "zeros", "border" or "reflection".
                MONAI, VoxelMorph and TransMorph take "zeros": write it to reproduce them.
            inverse: also return ``exp(-v)``.
            checkpoint: "store" or "recompute": what autograd keeps.
            backend: which backend serves it.

        Raises:
            TypeError: ``steps`` is neither an int nor "auto".
            ValueError: an option is not one of these.
        """
        if _unknown:
            _words.refuse(Exponential, _unknown)
        super().__init__()
        _checks.one_of(method, "method", _checks.METHODS)
        _checks.one_of(padding, "padding", _checks.PADDINGS)
        _checks.one_of(checkpoint, "checkpoint", _checks.CHECKPOINTS)
        self.steps = _checks.steps_or_auto(steps)
        self.method = method
        self.padding = padding
        self.inverse = inverse
        self.checkpoint = checkpoint
        self.backend = backend

    @_words.checks_inside
    def forward(self, velocity: Tensor, **_unknown: NoReturn) -> Tensor | tuple[Tensor, Tensor]:
        """exp(v) of an ``(N, d, *s)`` velocity in voxels; with ``inverse`` also exp(-v)."""
        if _unknown:
            _words.refuse(self.forward, _unknown)
        return ops.exponential(
            velocity,
            steps=self.steps,
            method=self.method,
            padding=self.padding,
            inverse=self.inverse,
            checkpoint=self.checkpoint,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        """The options."""
        return (
            f"steps={self.steps!r}, method={self.method!r}, padding={self.padding!r}, "
            f"inverse={self.inverse}, checkpoint={self.checkpoint!r}, backend={self.backend!r}"
        )


class WarpExponential(nn.Module):
    """Warps an image by exp(v): :func:`plasticine.warp_exponential` with its options fixed."""

    def __init__(
        self,
        steps: int | Literal["auto"] = 7,
        *,
        method: str = "euler",
        mode: str = "linear",
        padding: str = "border",
        field_padding: str = "border",
        checkpoint: str = "store",
        backend: str = "auto",
        **_unknown: NoReturn,
    ) -> None:
        """Fixes the options.

        Args:
            steps: number of squarings, or "auto": chosen in each call.
            method: "euler", "midpoint" or "rk4".
            mode: "linear" or "nearest".
            padding: how the image continues outside its grid: "zeros", "border" or "reflection".
            field_padding: how the velocity does.
            checkpoint: "store" or "recompute": what autograd keeps.
            backend: which backend serves it.

        Raises:
            TypeError: ``steps`` is neither an int nor "auto".
            ValueError: an option is not one of these.
        """
        if _unknown:
            _words.refuse(WarpExponential, _unknown)
        super().__init__()
        _checks.one_of(method, "method", _checks.METHODS)
        _checks.one_of(mode, "mode", ("linear", "nearest"))
        _checks.one_of(padding, "padding", _checks.PADDINGS)
        _checks.one_of(field_padding, "field_padding", _checks.PADDINGS)
        _checks.one_of(checkpoint, "checkpoint", _checks.CHECKPOINTS)
        self.steps = _checks.steps_or_auto(steps)
        self.method = method
        self.mode = mode
        self.padding = padding
        self.field_padding = field_padding
        self.checkpoint = checkpoint
        self.backend = backend

    @_words.checks_inside
    def forward(self, image: Tensor, velocity: Tensor, **_unknown: NoReturn) -> Tensor:
        """Warps ``(N, C, *s)`` by exp of an ``(N, d, *s)`` velocity in voxels."""
        if _unknown:
            _words.refuse(self.forward, _unknown)
        return ops.warp_exponential(
            image,
            velocity,
            steps=self.steps,
            method=self.method,
            mode=self.mode,
            padding=self.padding,
            field_padding=self.field_padding,
            checkpoint=self.checkpoint,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        """The options."""
        return (
            f"steps={self.steps!r}, method={self.method!r}, mode={self.mode!r}, "
            f"padding={self.padding!r}, field_padding={self.field_padding!r}, "
            f"checkpoint={self.checkpoint!r}, backend={self.backend!r}"
        )
