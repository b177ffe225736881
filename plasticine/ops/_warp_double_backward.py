"""The second derivatives of ``warp``, and of ``compose``, which is a warp that adds its field.

They are those of the definition, whatever the backend: no model and no peer asks for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from plasticine import reference
from plasticine.ops import _checks
from plasticine.ops._operator import Operator, not_differentiable_again

#: The modes that have second derivatives.
MODES = ("linear", "nearest")


def require_second_derivative(mode: str) -> None:
    """Raises RuntimeError where the warp's gradient cannot be differentiated."""
    if mode not in MODES:
        raise RuntimeError(
            f"plasticine.warp has no second derivative in mode {mode!r}: its gradient cannot be "
            "differentiated again (create_graph=True followed by a second backward)"
        )


def differentiate_backward(
    directions: Sequence[Tensor | None],
    saved: Sequence[Tensor | None],
    options: Sequence[Any],
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients that a backward's autograd formula returns for grad and the warp's inputs.

    Args:
        directions: the cotangents of the gradients of image, displacement and affine.
        saved: grad, image, displacement and affine.
        options: mode, padding and add.
        needs: which of the saved want a gradient.

    Returns:
        For each of the saved its gradient or None.
    """
    if all(x is None for x in directions):
        return [None] * 4
    results = WARP_DOUBLE_BACKWARD.from_autograd(*directions, *saved, *options, needs)
    return [x if need else None for x, need in zip(results, needs, strict=True)]


def tangent_of_result(
    tangents: Sequence[Tensor | None], inputs: Sequence[Tensor | None], options: Sequence[Any]
) -> Tensor:
    """The derivative of a warp along tangents of its inputs.

    Args:
        tangents: of image, displacement and affine, or None.
        inputs: image, displacement and affine.
        options: mode, padding and add.
    """
    image, displacement, _ = inputs
    assert image is not None
    assert displacement is not None
    # It does not depend on the gradient, whose shape is asked for.
    grad = image.new_zeros(()).expand(image.shape[:2] + displacement.shape[2:])
    needs = [True, False, False, False]
    return WARP_DOUBLE_BACKWARD(*tangents, grad, *inputs, *options, needs)[0]


def tangents_of_gradients(
    of_grad: Sequence[Tensor],
    tangents: Sequence[Tensor | None],
    saved: Sequence[Tensor | None],
    options: Sequence[Any],
    found: Sequence[bool],
) -> tuple[Tensor, ...]:
    """The derivatives of a warp's gradients along tangents.

    Args:
        of_grad: what the tangent of grad gives; nothing where it has none.
        tangents: of image, displacement and affine, or None.
        saved: grad, image, displacement and affine.
        options: mode, padding and add.
        found: which gradients were computed.
    """
    grad = saved[0]
    assert grad is not None
    if all(x is None for x in tangents):
        of_inputs = [grad.new_zeros(1).expand(x.shape) for x in of_grad]
    else:
        # The Hessian is symmetric: its product with a direction is the tangent as well.
        needs = [False, *found]
        of_inputs = WARP_DOUBLE_BACKWARD(*tangents, *saved, *options, needs)[1:]
    if not of_grad:
        return tuple(of_inputs)
    return tuple(x + y for x, y in zip(of_grad, of_inputs, strict=True))


def check(
    directions: Sequence[Tensor | None],
    grad: Tensor,
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None,
    mode: str,
    padding: str,
    add: bool,
) -> None:
    """Raises unless the arguments fit together."""
    _checks.one_of(mode, "mode", MODES)
    _checks.one_of(padding, "padding", _checks.PADDINGS)
    ndim = _checks.image_and_displacement(image, displacement)
    if affine is not None:
        _checks.affine_of(affine, displacement, ndim)
    result_shape = image.shape[:2] + displacement.shape[2:]
    _checks.gradient(grad, result_shape, image)
    if add and (grad.shape != displacement.shape or affine is not None):
        raise ValueError(
            "with add, image must have as many channels as displacement, and there is no affine; "
            f"got image of shape {tuple(image.shape)} and displacement of shape "
            f"{tuple(displacement.shape)}"
        )
    names = ("image", "displacement", "affine")
    for direction, of, name in zip(directions, (image, displacement, affine), names, strict=True):
        if direction is None:
            continue
        if of is None:
            raise ValueError(f"a direction of {name} was given, but no {name}")
        _checks.gradient(direction, of.shape, of)


def _kernel(
    image_direction: Tensor | None,
    displacement_direction: Tensor | None,
    affine_direction: Tensor | None,
    grad: Tensor,
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None,
    mode: str,
    padding: str,
    add: bool,
    needs: list[bool],
) -> tuple[Tensor, ...]:
    """The gradients of grad, image, displacement and affine; an empty tensor where not needed."""
    directions = (image_direction, displacement_direction, affine_direction)
    check(directions, grad, image, displacement, affine, mode, padding, add)
    results = _unchecked(
        *directions, grad, image, displacement, affine, mode, padding, add, needs
    )
    return tuple(image.new_empty(0) if x is None else x for x in results)


def _unchecked(
    image_direction: Tensor | None,
    displacement_direction: Tensor | None,
    affine_direction: Tensor | None,
    grad: Tensor,
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None,
    mode: str,
    padding: str,
    add: bool,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    directions = (image_direction, displacement_direction, affine_direction)
    return reference.warp_double_backward(directions, grad, image, displacement, affine, mode, padding, add, needs)


def _fake(
    image_direction: Tensor | None,
    displacement_direction: Tensor | None,
    affine_direction: Tensor | None,
    grad: Tensor,
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None,
    mode: str,
    padding: str,
    add: bool,
    needs: list[bool],
) -> tuple[Tensor, ...]:
    directions = (image_direction, displacement_direction, affine_direction)
    check(directions, grad, image, displacement, affine, mode, padding, add)
    return tuple(
        x.new_empty(x.shape) if x is not None and need else image.new_empty(0)
        for x, need in zip((grad, image, displacement, affine), needs, strict=True)
    )


WARP_DOUBLE_BACKWARD = Operator(
    "warp_double_backward(Tensor? image_direction, Tensor? displacement_direction,"
    " Tensor? affine_direction, Tensor grad, Tensor image, Tensor displacement, Tensor? affine,"
    " str mode, str padding, bool add, bool[4] needs)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    _kernel,
    _fake,
    not_differentiable_again(
        "plasticine.warp and plasticine.compose have no third derivative: their second derivative "
        "cannot be differentiated again (create_graph=True followed by a third backward)",
        tensors=7,
    ),
    tensors=7,
    unchecked=_unchecked,
)
