"""The declaration of an operator with one result whose gradients are an operator of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from plasticine import backends, reference
from plasticine.ops import _autocast, _checks
from plasticine.ops._derivative import Derivative, MaybeTensors, not_twice_differentiable, refused
from plasticine.ops._kernels import Kernel, contiguous_like, gradients_like
from plasticine.ops._operator import REGISTRY, Operator

DoubleBackward = Callable[..., MaybeTensors]


def differentiable(
    schema: str,
    *,
    function: str,
    check: Callable[..., Any],
    shape: Callable[..., Sequence[int] | None] = lambda *_: None,
    scratch: Callable[..., Tensor] | None = None,
    like: int = 0,
    accumulated: bool = False,
    constants: int = 0,
    definition: Callable[..., Tensor],
    choices: Mapping[str, Sequence[str]],
    field: int = 0,
    autocast: Callable[..., tuple[Any, ...]] = _autocast.single,
    serve: Mapping[str, Kernel] | None = None,
    serve_backward: Mapping[str, Kernel] | None = None,
    double_backward: DoubleBackward | None = None,
    check_double_backward: Callable[..., Any] | None = None,
) -> tuple[Operator, Operator, Operator | None]:
    """Declares an operator, and the operators of its first and second derivatives.

    The kernels ``<name>_forward(*tensors, result, *options)`` and ``<name>_backward(grad, *tensors,
    *gradients, *options)`` serve the compiled backends, where None stands for what is not wanted;
    the scratch, if there is any, stands in front of the options.

    Args:
        schema: ``name(Tensor x, ..., <options>) -> Tensor``.
        function: the name of the public function.
        check: raises unless the arguments, tensors and options, fit together.
        shape: of the result, a function of the same arguments; None: that of the tensor ``like``.
        scratch: memory for the kernels of both, a function of the same arguments.
        like: which tensor the result has the dtype and the device of.
        accumulated: the result of half tensors is float32: a loss of 16 bits trains nothing.
        constants: how many of the last tensors have no gradient, as a mask has none. Neither
            ``needs`` nor the kernels' gradients nor the directions know of them.
        definition: of the same arguments to the result, in plain PyTorch that autograd follows.
        choices: the words that options may be.
        field: which argument has as many voxels as there are to compute.
        autocast: what ``torch.autocast`` makes of the tensors.
        serve: functions of the arguments for backends that need more than a kernel.
        serve_backward: the same of ``(grad, *arguments)``, and of ``needs`` where there are several
            tensors; they return the gradients.
        double_backward: of ``(directions, grad, *arguments, needs)`` to the gradients of grad and
            the tensors that have one: :func:`plasticine.reference.double_backward` says more. It
            serves every backend. None: there is no second derivative.
        check_double_backward: raises where the options have no second derivative.

    Returns:
        The operator, that of its gradients, and that of its second derivatives or None. The last
        argument of the second is ``needs`` where there are several tensors, and
        it returns one gradient where there is one.
    """
    name = schema[: schema.index("(")]
    parameters = schema[len(name) + 1 : schema.index(")")]
    tensors = parameters.count("Tensor")
    variables = tensors - constants  # those with a gradient
    several = variables > 1

    def dtype_of(model: Tensor) -> torch.dtype:
        return result_dtype(model) if accumulated else model.dtype

    def result(*arguments: Any) -> Tensor:
        size = shape(*arguments)
        model = arguments[like]
        if size is not None:
            return model.new_empty(size, dtype=dtype_of(model))
        # From a size it takes twice as long.
        return contiguous_like(model)

    def shape_of(*arguments: Any) -> Sequence[int]:
        size = shape(*arguments)
        return arguments[like].shape if size is None else size

    def results_of_backward(grad: Tensor, *arguments: Any) -> Any:
        if not several:
            return contiguous_like(arguments[0])
        return gradients_like(arguments[:variables], arguments[-1])

    def check_backward(grad: Tensor, *arguments: Any) -> None:
        check(*arguments)
        model = arguments[like]
        _checks.gradient(grad, shape_of(*arguments), model, dtype_of(model))

    def define(*arguments: Any) -> Tensor:
        return definition(*arguments).contiguous()

    def define_backward(grad: Tensor, *arguments: Any) -> Any:
        inputs, options = arguments[:tensors], arguments[tensors : -1 if several else None]
        needs = [*(arguments[-1] if several else (True,)), *[False] * constants]
        found = reference.gradients(lambda *x: definition(*x, *options), inputs, needs, grad)
        return found[:variables] if several else found[0]

    def gradients(
        grads: MaybeTensors, saved: MaybeTensors, options: Sequence[Any], needs: Sequence[bool]
    ) -> MaybeTensors:
        of_constants = (None,) * constants
        if not several:
            return (backward.from_autograd(*grads, *saved, *options), *of_constants)
        found = backward.from_autograd(*grads, *saved, *options, needs[:variables])
        return (*found, *of_constants) if constants else found

    twice, tangent, of_gradients = None, None, not_twice_differentiable(function)
    if double_backward is not None:
        twice = _declare_double_backward(
            name,
            function,
            parameters,
            (tensors, variables),
            check_backward,
            check_double_backward,
            choices,
            double_backward,
        )
        tangent, of_gradients = _differentiate(
            twice, (tensors, variables), shape_of, dtype_of, lambda: backward
        )
    backward = Operator(
        f"{name}_backward(Tensor grad, {parameters}"
        + (f", bool[{variables}] needs) -> ({_tensors(variables)})" if several else ") -> Tensor"),
        check=check_backward,
        results=results_of_backward,
        derivative=of_gradients,
        choices=choices,
        kernel=f"{name}_backward",
        scratch=None if scratch is None else lambda grad, *arguments: scratch(*arguments),
        field=field + 1,
        serve={"reference": define_backward} | {**(serve_backward or {})},
        held_as=name,
    )
    forward = Operator(
        schema,
        check=check,
        results=result,
        derivative=Derivative(gradients, tangent),
        choices=choices,
        kernel=f"{name}_forward",
        scratch=scratch,
        field=field,
        autocast=autocast,
        serve={"reference": define} | {**(serve or {})},
    )
    REGISTRY[name] = forward
    return forward, backward, twice


def result_dtype(x: Tensor) -> torch.dtype:
    """The dtype of what is accumulated over a tensor: float64 of float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _tensors(count: int) -> str:
    return ", ".join(["Tensor"] * count)


def _declare_double_backward(
    name: str,
    function: str,
    parameters: str,
    counts: tuple[int, int],
    check_backward: Callable[..., Any],
    check_options: Callable[..., Any] | None,
    choices: Mapping[str, Sequence[str]],
    serve: DoubleBackward,
) -> Operator:
    """The second derivatives: of the gradients' cotangents, grad and the arguments.

    ``counts`` are those of the tensors, and of those of them that have a gradient.
    """
    tensors, variables = counts
    names = [part.split()[1] for part in parameters.split(", ")[:variables]]
    directions = ", ".join(f"Tensor? {name}_direction" for name in names)

    def check(*arguments: Any) -> None:
        given, grad, *arguments_ = arguments[:variables], *arguments[variables:]
        if check_options is not None:
            check_options(*arguments_[tensors:])
        check_backward(grad, *arguments_)
        for direction, of, of_name in zip(given, arguments_, names, strict=False):
            if direction is None:
                continue
            if of is None:
                raise ValueError(f"a direction of {of_name} was given, but no {of_name}")
            _checks.gradient(direction, of.shape, of)

    def results(*arguments: Any) -> tuple[Tensor | None, ...]:
        return gradients_like(arguments[variables : 2 * variables + 1], arguments[-1])

    def kernel(*arguments: Any) -> tuple[Tensor | None, ...]:
        if check_options is not None:  # autograd does not ask the operator's own checks
            check_options(*arguments[variables + 1 + tensors : -1])
        return tuple(serve(arguments[:variables], *arguments[variables:]))

    return Operator(
        f"{name}_double_backward({directions}, Tensor grad, {parameters},"
        f" bool[{variables + 1}] needs) -> ({_tensors(variables + 1)})",
        check=check,
        results=results,
        derivative=refused(
            f"plasticine.{function} has no third derivative: its second derivative cannot be "
            "differentiated again (create_graph=True followed by a third backward)"
        ),
        choices=choices,
        field=variables,
        serve=dict.fromkeys(backends.BACKENDS, kernel),
        held_as=name,
    )


def _differentiate(
    twice: Operator,
    counts: tuple[int, int],
    shape: Callable[..., Sequence[int]],
    dtype: Callable[[Tensor], torch.dtype],
    backward: Callable[[], Operator],
) -> tuple[Callable[..., Any], Derivative]:
    """The forward mode of an operator, and the derivative of its gradients.

    Args:
        twice: the operator of the second derivatives.
        counts: how many tensors the operator takes, and how many of them have a gradient.
        shape: of its result.
        dtype: of its result, a function of its first tensor.
        backward: gives the operator of its gradients.
    """
    tensors, variables = counts

    def split(options: Sequence[Any]) -> tuple[Sequence[Any], Sequence[bool], str]:
        """What comes after a gradient's tensors: the operator's options, needs, the backend."""
        if variables == 1:
            return options[:-1], (True,), options[-1]
        return options[:-2], options[-1], options[-2]

    def tangent(tangents: MaybeTensors, inputs: MaybeTensors, options: Sequence[Any]) -> Tensor:
        # It does not depend on the gradient, whose shape is asked for.
        first = inputs[0]
        assert first is not None
        grad = first.new_zeros((), dtype=dtype(first)).expand(shape(*inputs, *options[:-1]))
        needs = [True] + [False] * variables
        return twice(*tangents[:variables], grad, *inputs, *options, needs)[0]

    def gradients(
        cotangents: MaybeTensors,
        saved: MaybeTensors,
        options: Sequence[Any],
        needs: Sequence[bool],
    ) -> MaybeTensors:
        own, found, backend = split(options)
        # What stands for a gradient that was not asked for has no cotangent.
        directions = [x if need else None for x, need in zip(cotangents, found, strict=True)]
        needs = needs[: variables + 1]
        of_variables = twice.from_autograd(*directions, *saved, *own, backend, needs)
        return (*of_variables, *(None,) * (tensors - variables))

    def tangents_of_gradients(
        tangents: MaybeTensors, saved: MaybeTensors, options: Sequence[Any]
    ) -> Any:
        own, found, backend = split(options)
        grad, *inputs = saved
        assert grad is not None
        of_grad: Any = None
        if tangents[0] is not None:
            of_grad = backward()(tangents[0], *inputs, *options)
            of_grad = of_grad if isinstance(of_grad, tuple) else (of_grad,)
        directions = tangents[1 : variables + 1]
        if any(x is not None for x in directions):
            # The Hessian is symmetric: its product with a direction is the tangent as well.
            of_inputs = twice(*directions, *saved, *own, backend, [False, *found])[1:]
            if of_grad is not None:
                of_inputs = [x + y for x, y in zip(of_grad, of_inputs, strict=True)]
        else:
            of_inputs = of_grad
        # What stands for a gradient that was not computed has no tangent.
        of_found = tuple([x if need else None for x, need in zip(of_inputs, found, strict=True)])
        return of_found if variables > 1 else of_found[0]

    return tangent, Derivative(gradients, tangents_of_gradients)
