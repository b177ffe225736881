"""What autograd does with an operator: one formula for all, made of what the operator declares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad

MaybeTensors = Sequence[Tensor | None]


@dataclass(frozen=True)
class Derivative:
    """The derivatives of an operator.

    Attributes:
        gradients: of the results' gradients (None for one without), the saved tensors, the options
            with the backend, and which tensors need a gradient: the gradient of each, or None.
        tangent: of the tensors' tangents, the saved tensors and the options: that of the result;
            None where there is no forward mode.
        saved: of the arguments and the results: the tensors to keep; None: the tensor arguments.
        constant: which results have no gradient.
    """

    gradients: Callable[[MaybeTensors, MaybeTensors, Sequence[Any], Sequence[bool]], MaybeTensors]
    tangent: Callable[[MaybeTensors, MaybeTensors, Sequence[Any]], Any] | None = None
    saved: Callable[[Sequence[Any], Any], MaybeTensors] | None = None
    constant: tuple[int, ...] = ()


def refused(message: str, constant: tuple[int, ...] = ()) -> Derivative:
    """The derivative of what has none: it raises RuntimeError."""

    def gradients(*_: Any) -> NoReturn:
        raise RuntimeError(message)

    return Derivative(gradients, saved=lambda inputs, results: (), constant=constant)


def not_twice_differentiable(name: str) -> Derivative:
    """That of a gradient which cannot be differentiated again.

    Args:
        name: the public function's.
    """
    return refused(
        f"plasticine.{name} has no second derivative: its gradient cannot be differentiated again "
        "(create_graph=True followed by a second backward)"
    )


def formula_of(
    name: str, tensors: int, derivative: Derivative, map_over_batch: Callable[..., Any]
) -> type[torch.autograd.Function]:
    """The autograd function of an operator.

    It is applied to the operator's arguments and, last, to the callable that computes the results
    from them.

    Args:
        name: the operator's.
        tensors: how many leading arguments are tensors or None.
        derivative: the operator's.
        map_over_batch: its vmap rule.
    """

    class Formula(torch.autograd.Function):
        @staticmethod
        def forward(*arguments: Any) -> Any:
            return arguments[-1](*arguments[:-1])

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            choose = derivative.saved
            kept = inputs[:tensors] if choose is None else choose(inputs, output)
            ctx.save_for_backward(*kept)
            if forward_ad._current_level >= 0:
                ctx.save_for_forward(*kept)
            ctx.options = inputs[tensors:-1]
            if type(output) is tuple:
                ctx.set_materialize_grads(False)  # zeros are as large as what they stand for
                ctx.mark_non_differentiable(
                    *(
                        x
                        for index, x in enumerate(output)
                        # What stands for a result that was not asked for has no axis but one.
                        if x is not None and (index in derivative.constant or x.shape == (0,))
                    )
                )
            elif derivative.constant:
                ctx.mark_non_differentiable(output)

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
            needs = ctx.needs_input_grad
            of_options = (None,) * (len(needs) - tensors)
            if gradients[0] is None and all(x is None for x in gradients):
                return (None,) * tensors + of_options
            needs = needs[:tensors]
            found = derivative.gradients(gradients, ctx.saved_tensors, ctx.options, needs)
            return (
                *[x if need else None for x, need in zip(found, needs, strict=True)],
                *of_options,
            )

        @staticmethod
        def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
            return map_over_batch(info, in_dims, *arguments)

    tangent = derivative.tangent
    if tangent is not None:

        def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
            return tangent(tangents[:tensors], ctx.saved_tensors, ctx.options)

        Formula.jvp = staticmethod(jvp)  # type: ignore[assignment]
    Formula.__name__ = "".join(word.capitalize() for word in name.split("_"))
    return Formula


def plain_apply(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """``apply`` of the same formula where no torch.func transform is active.

    A function that torch.func can take costs 10 us more a call (it binds its arguments to a
    signature), and the checks in front of ``apply`` 1.5 us.
    """

    def forward(ctx: Any, *arguments: Any) -> Any:
        output = arguments[-1](*arguments[:-1])
        function.setup_context(ctx, arguments, output)
        return output

    members = {"forward": staticmethod(forward), "backward": staticmethod(function.backward)}
    plain: type[torch.autograd.Function] = type(
        function.__name__, (torch.autograd.Function,), members
    )
    return super(torch.autograd.Function, plain).apply  # type: ignore[misc]
