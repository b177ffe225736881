"""Drop-ins for deepali (hf-deepali 0.6.5): ``expv``, ``ExpFlow`` and ``jacobian_det``.

Flow fields are deepali's: ``(N, D, ..., X)`` with the components in the order x, y, z, in the
normalised coordinates of ``torch.nn.functional.grid_sample``, by default with
``align_corners=True``. What Plasticine does not compute the same is handed to deepali itself, or
raises NotImplementedError where that is not installed:

- ``expv`` with another sampling than linear, a number for padding, "reflect" without
  ``align_corners``, or an axis of one voxel;
- ``jacobian_det`` with another mode than ``forward_central_backward``, ``sigma``,
  ``add_identity=False``, or spacings that differ between the fields of a batch.

Half types are integrated in float32 and rounded once; deepali's coordinates are in the flow's
dtype.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from plasticine.compat._handover import theirs
from plasticine.compat._patching import Replacement
from plasticine.ops.exponential import exponential
from plasticine.ops.jacobian import jacobian_determinant

_LINEAR = ("linear", "bilinear", "trilinear", "default")
_PADDINGS = {
    **dict.fromkeys(("zeros", "constant", "default"), "zeros"),
    **dict.fromkeys(("reflect", "reflection", "mirror"), "reflection"),
    "border": "border",
}


def expv(
    flow: Tensor,
    scale: float | None = None,
    steps: int | None = None,
    sampling: Any = "linear",
    padding: Any = "border",
    align_corners: bool = True,
    inverse: bool = False,
) -> Tensor:
    """The displacement of the flow of a stationary velocity field: ``deepali.core.flow.expv``.

    Args:
        flow: velocities ``(N, D, ..., X)``, x first, in normalised coordinates.
        scale: what they are multiplied by; None for 1.
        steps: number of squarings; None for 5. With 0 the flow is returned as it is.
        sampling: deepali's ``Sampling`` or its name.
        padding: deepali's ``PaddingMode`` or its name.
        align_corners: whether -1 and 1 are the centres of the outermost voxels, or their edges.
        inverse: the exponential of the negative field.

    Returns:
        ``(N, D, ..., X)``, in the same coordinates and dtype.

    Raises:
        TypeError: ``steps`` is no int.
        ValueError: ``steps`` is negative; an option has no meaning.
        NotImplementedError: only deepali serves the options, and is not installed.
    """
    factor = (1 if scale is None else scale) * (-1 if inverse else 1)
    count = 5 if steps is None else steps
    if not isinstance(count, int):
        raise TypeError("expv() 'steps' must be of type int")
    if count < 0:
        raise ValueError("expv() 'steps' must be positive value")
    if count == 0:
        return flow.mul(factor) if abs(factor - 1) > 1e-15 else flow
    word = _PADDINGS.get(_word(padding))
    size = flow.shape[2:]
    is_served = (
        word is not None
        and _word(sampling) in _LINEAR
        and not (word == "reflection" and not align_corners)
        and flow.is_floating_point()
        and len(size) in (2, 3)
        and min(size) > 1
    )
    if word is None or not is_served:
        serve = theirs("deepali.core.flow.expv", "expv with these options")
        found: Tensor = serve(flow, scale, steps, sampling, padding, align_corners, inverse)
        return found
    half = [(n - align_corners) / 2 for n in size]  # of the cube's side, in voxels
    velocity = _reversed(flow, [factor * h for h in half])
    displacement = exponential(velocity, steps=count, padding=word)
    return _reversed(displacement, [1 / h for h in reversed(half)])


class ExpFlow(nn.Module):
    """A layer that computes :func:`expv`: ``deepali.modules.ExpFlow``."""

    def __init__(
        self, scale: float | None = None, steps: int | None = None, align_corners: bool = True
    ) -> None:
        """Keeps the options.

        Args:
            scale: what velocities are multiplied by; None for 1.
            steps: number of squarings; None for 5.
            align_corners: as of :func:`expv`.
        """
        super().__init__()
        self.scale = float(1 if scale is None else scale)
        self.steps = int(5 if steps is None else steps)
        self.align_corners = bool(align_corners)

    def forward(self, x: Tensor, inverse: bool = False) -> Tensor:
        """The exponential of a velocity field, ``(N, D, ..., X)``, or of its negative."""
        scale = -self.scale if inverse else self.scale
        return expv(x, scale=scale, steps=self.steps, align_corners=self.align_corners)

    @property
    def inv(self) -> ExpFlow:
        """The same as :meth:`inverse`."""
        return self.inverse()

    def inverse(self) -> ExpFlow:
        """A layer of the negative field."""
        other = copy(self)
        other.scale *= -1
        return other

    def extra_repr(self) -> str:
        """The options that deepali shows."""
        return f"scale={self.scale!r}, steps={self.steps!r}"


def jacobian_det(
    flow: Tensor,
    mode: str | None = None,
    sigma: float | None = None,
    spacing: Any = None,
    stride: Any = None,
    add_identity: bool = True,
) -> Tensor:
    """The Jacobian determinant of ``x + u(x)``: ``deepali.core.flow.jacobian_det``.

    Differences are central, and one-sided at the border.

    Args:
        flow: ``u``, ``(N, D, ..., X)``, x first.
        mode: of the derivatives; None for "forward_central_backward".
        sigma: of a Gaussian that smooths the field first.
        spacing: of the voxels, x first, in the unit of ``u``; None for ``2 / (n - 1)``, that of
            normalised coordinates with ``align_corners=True``.
        stride: of mode "bspline" alone.
        add_identity: whether the identity is added to the derivatives of ``u``.

    Returns:
        ``(N, 1, ..., X)``.

    Raises:
        ValueError: the flow is no field of vectors, or an axis of it is too short.
        NotImplementedError: only deepali serves the options, and is not installed.
    """
    if flow.ndim < 4:
        raise ValueError("jacobian_det() 'flow' must be dense vector field of shape (N, D, ..., X)")
    if flow.shape[1] != flow.ndim - 2:
        raise ValueError("jacobian_det() 'flow' must have shape (N, D, ..., X)")
    size = flow.shape[2:]
    lengths = [2 / (n - 1) for n in reversed(size)] if spacing is None else _lengths(spacing, size)
    is_served = (
        lengths is not None
        and mode in (None, "forward_central_backward")
        and not (sigma and sigma > 0)
        and add_identity
        and flow.is_floating_point()
        and len(size) in (2, 3)
        and min(size) > 1
    )
    if lengths is None or not is_served:
        serve = theirs("deepali.core.flow.jacobian_det", "jacobian_det with these options")
        found: Tensor = serve(flow, mode, sigma, spacing, stride, add_identity)
        return found
    # Components and axes in the other order: the determinant is the same.
    return jacobian_determinant(flow.flip(1), spacing=lengths[::-1])


def _lengths(spacing: Any, size: Sequence[int]) -> list[float] | None:
    """A spacing per axis, or None where it is no such thing."""
    try:
        found = [float(x) for x in torch.as_tensor(spacing).reshape(-1).tolist()]
    except (TypeError, ValueError, RuntimeError):
        return None
    found = found * len(size) if len(found) == 1 else found
    is_plain = len(found) == len(size) and all(x > 0 and math.isfinite(x) for x in found)
    return found if is_plain and torch.as_tensor(spacing).dim() < 2 else None


def _word(option: Any) -> Any:
    if isinstance(option, Enum):
        option = option.value
    return option.lower() if isinstance(option, str) else option


def _reversed(field: Tensor, factors: Sequence[float]) -> Tensor:
    """A field with its components in the other order, each times its factor."""
    components = reversed(field.unbind(1))
    return torch.stack([x * factor for x, factor in zip(components, factors, strict=True)], 1)


REPLACEMENTS = (
    Replacement("deepali.core.flow.expv", expv),
    Replacement("deepali.core.flow.jacobian_det", jacobian_det),
    Replacement("deepali.modules.flow.ExpFlow", ExpFlow),
)
