"""Every operator as PyTorch's other parts call it: dispatcher, compiler, transforms, autocast.

And what every operator refuses. The kernels are the matter of test_conformance.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from comparison import assert_same_sums, leaf
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, vmap
from torch.utils._python_dispatch import TorchDispatchMode

import plasticine
from plasticine.conformance import CONSTANTS, OPERATORS, SIZES, Operator, Options, Tensors, variants
from plasticine.ops import REGISTRY

ALL = list(OPERATORS.values())
DIFFERENTIABLE = [operator for operator in ALL if operator.differentiable]
# Sums and compositions of what differentiates.
COMPOSED = ("spline_coefficients", "gaussian_smooth", "exponential", "warp_exponential")
LINEAR = {"mode": "linear", "prefilter": True, "steps": 2}
SIZE = ((4, 5), (3, 4))
close = torch.testing.assert_close


def plain(operator: Operator, **others: Any) -> Options:
    """A variant with all tensors, its first words and two squarings."""
    choices = operator.every.items()
    first = {k: (True if k in operator.tensors else v[0]) for k, v in choices}
    return first | {k: v for k, v in (LINEAR | others).items() if k in first}


def bound(
    operator: Operator, served: Any, variant: Options, sizes: Any = SIZE, **shape: int
) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """A function of tensors alone that may have a gradient, and float64 tensors for it."""
    inputs = operator.inputs(sizes, variant, torch.float64, **shape)
    inputs = {name: x.to(served.device) for name, x in inputs.items()}
    options = operator.options(variant, sizes, torch.float64)
    constants = {name: inputs.pop(name) for name in CONSTANTS if name in inputs}

    def function(*tensors: Tensor) -> Tensor:
        given = dict(zip(inputs, tensors, strict=True))
        return operator(given | constants, options, served.backend)

    return function, list(inputs.values())


def energy_of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *inputs: function(*inputs).pow(3).sum()


# The dispatcher


class Recorder(TorchDispatchMode):
    """Collects the operators of this library that are dispatched, with their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "plasticine":
            self.calls.append((function, args))
        return function(*args, **(kwargs or {}))


def recorded_passes(operator: Operator, served: Any, variant: Options) -> list[Any]:
    """What a call, its backward pass and, if it has one, that one's backward pass dispatch."""
    function, inputs = bound(operator, served, variant)
    leaves = [leaf(x) for x in inputs]
    again = operator.twice(variant)
    with Recorder() as recorder:
        result = function(*leaves)
        if operator.differentiable:
            first = torch.autograd.grad(
                result, leaves, result.detach(), create_graph=again, materialize_grads=True
            )
            penalty = sum(x.square().sum() for x in first)
            if again and penalty.requires_grad:
                torch.autograd.grad(penalty, leaves, materialize_grads=True)
    return recorder.calls


@pytest.mark.parametrize("operator", ALL, ids=str)
def test_opcheck_of_every_operator_that_is_reached(served, operator):
    checked: set[Any] = set()
    for variant in variants(operator.name, 1):
        for overload, arguments in recorded_passes(operator, served, variant):
            given = tuple(isinstance(x, Tensor) for x in arguments)
            if (overload, given) in checked:
                continue
            checked.add((overload, given))
            name = overload.name()
            # As autograd records it, where it differentiates.
            recorded = "double_backward" not in name and (
                operator.twice(variant) if "backward" in name else operator.differentiable > 0
            )
            arguments = tuple(
                x.detach().requires_grad_(recorded and x.is_floating_point())
                if isinstance(x, Tensor)
                else x
                for x in arguments
            )
            torch.library.opcheck(overload, arguments)
    reached = {overload.name().partition("::")[2] for overload, _ in checked}
    assert any(name.startswith(operator.name) for name in reached), reached
    assert (f"{operator.name}_backward" in reached) == (
        operator.differentiable > 0
        and operator.name not in ("splat", "spline_coefficients", "gaussian_smooth")
    )


@pytest.mark.parametrize("operator", ALL, ids=str)
def test_the_dispatcher_and_the_direct_call_agree(served, operator):
    for variant in variants(operator.name, 1):
        function, inputs = bound(operator, served, variant)

        def run(function: Any = function, inputs: list[Tensor] = inputs) -> list[Tensor]:
            leaves = [leaf(x) for x in inputs]
            result = function(*leaves)
            if not operator.differentiable:
                return [result]
            found = torch.autograd.grad(result, leaves, result.detach(), materialize_grads=True)
            return [result, *found]

        direct = run()
        with Recorder():
            dispatched = run()
        for x, y in zip(direct, dispatched, strict=True):
            assert_same_sums(x, y)


@pytest.mark.parametrize("operator", ALL, ids=str)
def test_a_negated_view_is_not_taken_for_its_memory(served, operator):
    """PyTorch may hold -x as a flag on x; reading x would be silently wrong."""
    function, inputs = bound(operator, served, plain(operator))
    views = [torch.complex(x, -x).conj().imag for x in inputs]
    assert all(x.is_neg() for x in views)
    assert_same_sums(function(*views), function(*inputs))


@pytest.mark.parametrize("operator", ALL, ids=str)
def test_a_tensor_subclass_is_asked(served, operator):
    class Tagged(torch.Tensor):
        calls: tuple[str, ...] = ()

        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            cls.calls = (*cls.calls, str(function))
            return super().__torch_function__(function, types, args, kwargs or {})

        def new_empty(self, *args):  # MONAI's MetaTensor has its own, that takes less
            raise AssertionError("a kernel called a subclass")

    function, inputs = bound(operator, served, plain(operator))
    tagged = [x.as_subclass(Tagged).requires_grad_() for x in inputs]
    result = function(*tagged)
    assert any("plasticine" in call for call in Tagged.calls)
    close(result.as_subclass(Tensor), function(*inputs))
    if operator.differentiable:
        assert isinstance(result, Tagged)
        result.sum().backward()
        leaves = [leaf(x) for x in inputs]
        expected = torch.autograd.grad(function(*leaves).sum(), leaves)
        for x, y in zip(tagged, expected, strict=True):
            close(x.grad.as_subclass(Tensor), y)


@pytest.mark.parametrize("operator", ALL, ids=str)
def test_inference_mode(served, operator):
    function, inputs = bound(operator, served, plain(operator))
    with torch.inference_mode():
        result = function(*(x * 1 for x in inputs))
    assert_same_sums(result.clone(), function(*inputs))


# The compiler


@pytest.mark.parametrize("operator", ALL, ids=str)
def test_compiles_into_one_graph_for_all_sizes(served, operator):
    """Of tensors of the graph's own; with its gradients, and other sizes without another graph."""
    torch._dynamo.reset()  # which remembers the function below of the other operators
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    variant = plain(operator)
    sizes = [((n, 7), (6, n)) for n in (5, 8, 11)]
    words = {k: v for k, v in variant.items() if k not in operator.tensors}

    def function(*tensors: Tensor) -> Tensor:
        inputs = dict(zip(operator.tensors, (x * 1.5 for x in tensors), strict=True))
        size = {"size": inputs["affine"].shape[1:]} if operator.name == "splat" else {}
        return operator(inputs, words | size, served.backend)

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=counter)
    for size in sizes:
        inputs = operator.inputs(size, variant, torch.float64)
        inputs = operator.leaves({k: x / 1.5 for k, x in inputs.items()}, device=served.device)
        result, expected = compiled(*inputs.values()), function(*inputs.values())
        close(result, expected)
        if operator.differentiable:
            leaves = [inputs[name] for name in operator.variables]
            found = torch.autograd.grad(result.square().sum(), leaves)
            close(found, torch.autograd.grad(expected.square().sum(), leaves))
    # A float is a number of the graph, and found to be none that changes at the second call.
    schema = REGISTRY[operator.name].overload._schema
    floats = any(str(argument.type) == "float" for argument in schema.arguments)
    floats |= any(isinstance(x, float) for x in words.values())
    assert counter.frame_count <= 1 + floats


@pytest.mark.parametrize("operator", ALL, ids=str)
def test_export(served, operator):
    function, inputs = bound(operator, served, plain(operator))

    class Module(torch.nn.Module):
        def forward(self, *tensors: Tensor) -> Tensor:
            return function(*tensors)

    exported = torch.export.export(Module(), tuple(inputs)).module()
    assert_same_sums(exported(*inputs), function(*inputs))


# Transforms of functions


@pytest.mark.parametrize("axes", ["first", "others", "shared"])
@pytest.mark.parametrize("operator", ALL, ids=str)
def test_under_maps(served, operator, axes):
    """Over any axes, of some inputs and of all, of gradients of all orders, and nested."""
    variant = plain(operator)
    count = len(operator.variables)
    function, inputs = bound(operator, served, variant, batch=2)
    samples = [[x * scale for x in inputs] for scale in (1.0, 0.5, -0.75)]
    dims = {
        "first": (0,) * count,
        "others": (1, -1, 2)[:count],
        "shared": (None, 0, None)[:count] if count > 1 else (-2,),
    }[axes]
    for one in samples:
        for i, axis in enumerate(dims):
            one[i] = samples[0][i] if axis is None else one[i]
    mapped = [
        samples[0][i] if axis is None else torch.stack([one[i] for one in samples], axis)
        for i, axis in enumerate(dims)
    ]
    result = vmap(function, in_dims=dims, out_dims=1)(*mapped)
    close(result, torch.stack([function(*one) for one in samples], 1))
    nested = vmap(vmap(function, in_dims=dims), in_dims=0)(*(torch.stack([x, x]) for x in mapped))
    close(nested[1], result.movedim(1, 0))
    if not operator.differentiable:
        return
    everything = tuple(range(count))
    transforms = [grad(energy_of(function), everything)]
    if operator.twice(variant):
        first = transforms[0]
        transforms.append(grad(lambda *x: sum(y.square().sum() for y in first(*x)), everything))
    for transform in transforms:
        found = vmap(transform, in_dims=dims)(*mapped)
        expected = [transform(*one) for one in samples]
        for i, x in enumerate(found):
            close(x, torch.stack([one[i] for one in expected]))
    total = grad(lambda *x: vmap(energy_of(function), in_dims=dims)(*x).sum(), everything)
    expected = [transforms[0](*one) for one in samples]
    for i, (x, axis) in enumerate(zip(total(*mapped), dims, strict=True)):
        each = torch.stack([one[i] for one in expected])
        close(x, each.sum(0) if axis is None else each.movedim(0, axis))


@pytest.mark.parametrize("operator", DIFFERENTIABLE, ids=str)
def test_jacobians_and_hessians(served, operator):
    """By torch.func, by autograd's own vmap, and in forward mode, or a word that there is none."""
    variant = plain(operator)
    function, inputs = bound(operator, served, variant, batch=1)
    point = inputs[-2:][0] if len(inputs) > 1 else inputs[0]
    index = [x is point for x in inputs].index(True)

    def of_one(x: Tensor) -> Tensor:
        return function(*inputs[:index], x, *inputs[index + 1 :])

    expected = torch.autograd.functional.jacobian(of_one, point)
    close(jacrev(of_one)(point), expected)
    close(torch.autograd.functional.jacobian(of_one, point, vectorize=True), expected)
    if operator.twice(variant):
        energy = energy_of(of_one)
        second = torch.autograd.functional.hessian(energy, point)
        close(jacrev(jacrev(energy))(point), second)
        close(torch.autograd.functional.hessian(energy, point, vectorize=True), second)
    if operator.tangent(variant):
        close(jacfwd(of_one)(point), expected)
        close(hessian(energy)(point), second)
        forward = {"vectorize": True, "strategy": "forward-mode"}
        close(torch.autograd.functional.jacobian(of_one, point, **forward), expected)
        return
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="jvp"):
        of_one(forward_ad.make_dual(point, torch.ones_like(point)))


@pytest.mark.parametrize("operator", DIFFERENTIABLE, ids=str)
def test_batched_gradients(served, operator):
    """Many in one pass, by is_grads_batched, are those of one by one; and their second ones."""
    for variant in variants(operator.name, 1):
        function, inputs = bound(operator, served, variant)
        leaves = [leaf(x) for x in inputs]
        again = operator.twice(variant)
        result = function(*leaves)
        given = torch.stack([result.detach(), torch.ones_like(result), result.detach().sin()])
        given.requires_grad_(again)
        how = {"create_graph": again, "retain_graph": True, "materialize_grads": True}
        found = torch.autograd.grad(result, leaves, given, is_grads_batched=True, **how)
        each = [torch.autograd.grad(result, leaves, x, **how) for x in given]
        expected = [torch.stack(x) for x in zip(*each, strict=True)]
        for x, y in zip(found, expected, strict=True):
            close(x, y)
        if not again:
            continue
        penalties = [sum(x.square().sum() for x in xs) for xs in (found, expected)]
        variables = [given, *leaves]
        second = [
            torch.autograd.grad(x, variables, retain_graph=True, materialize_grads=True)
            for x in penalties
        ]
        close(second[0], second[1])
        live = [x for x in each[0] if x.requires_grad]
        if live:
            along = [torch.stack([x.detach(), x.detach().cos()]) for x in live]
            batched = torch.autograd.grad(live, leaves, along, is_grads_batched=True, **how)
            for i in range(2):
                alone = torch.autograd.grad(live, leaves, [x[i] for x in along], **how)
                for x, y in zip(batched, alone, strict=True):
                    close(x[i] if x.dim() > y.dim() else x, y)  # zeros are of no batch


@pytest.mark.parametrize("operator", [x for x in DIFFERENTIABLE if x.name not in COMPOSED], ids=str)
def test_a_derivative_that_does_not_exist_is_refused(served, operator):
    for variant in variants(operator.name, 1):
        mode = variant.get("mode")
        if mode == "nearest" or (operator.name == "splat" and mode == "linear"):
            continue  # flat, or a sum of what differentiates
        function, inputs = bound(operator, served, variant)
        leaves = [leaf(x) for x in inputs]
        energy = function(*leaves).pow(3).sum()
        order = 2 if operator.twice(variant) else 1
        for _ in range(order):
            found = torch.autograd.grad(energy, leaves, create_graph=True)
            energy = sum(x.square().sum() for x in found)
        with pytest.raises(RuntimeError, match=f"no {('', 'second', 'third')[order]} derivative"):
            torch.autograd.grad(energy, leaves)


# What all refuse


def refused() -> list[Any]:
    """One change of the arguments each, with the error that it must raise."""
    cases: list[tuple[Operator, str, Any, type[Exception], str]] = []
    for operator in ALL:
        for name in operator.tensors:
            cases += [
                (operator, name, lambda x: x.numpy(), TypeError, f"{name} must be a torch.Tensor"),
                (operator, name, lambda x: torch.tensor(1.0), ValueError, "have a batch axis"),
            ]
            if name == "affine":
                cases += [
                    (operator, name, lambda x: x.float(), TypeError, "affine must have the dtype"),
                    (operator, name, lambda x: x[:, :1], ValueError, r"affine must have shape"),
                    (operator, name, lambda x: x[0], ValueError, r"affine must have shape"),
                    (operator, name, lambda x: x.to("meta"), ValueError, "affine on meta"),
                ]
                continue
            if name == "value_range":
                cases += [
                    (operator, name, lambda x: x.long(), TypeError, "must be float32.*int64"),
                    (operator, name, lambda x: x.to_sparse(), TypeError, "be a dense tensor"),
                    (operator, name, lambda x: x[:, :1], ValueError, "value_range must have shape"),
                    (operator, name, lambda x: x.to("meta"), ValueError, "value_range on meta"),
                    (operator, name, lambda x: x[[0, 1, 0]], ValueError, "batch size"),
                ]
                continue
            if name == "mask":
                cases += [
                    (operator, name, lambda x: x.long(), TypeError, "must be bool, float32"),
                    (operator, name, lambda x: x.to_sparse(), TypeError, "be a dense tensor"),
                    (operator, name, lambda x: x[0], ValueError, "mask must have shape"),
                    (operator, name, lambda x: x[..., :1], ValueError, "mask must have shape"),
                    (operator, name, lambda x: x.to("meta"), ValueError, "mask on meta"),
                    (operator, name, lambda x: x[[0, 1, 0]], ValueError, "batch size"),
                ]
                continue
            cases += [
                (operator, name, lambda x: x.long(), TypeError, "must be float32.*torch.int64"),
                (operator, name, lambda x: x.bool(), TypeError, "must be float32.*torch.bool"),
                (operator, name, lambda x: x.cfloat(), TypeError, "float32.*torch.complex64"),
                (operator, name, lambda x: x.to_sparse(), TypeError, "must be a dense tensor"),
                (operator, name, lambda x: x[0, :, :, 0], ValueError, "must have"),
            ]
            if len(operator.tensors) > 1:
                cases += [
                    (operator, name, lambda x: x.half(), TypeError, "torch.float16"),
                    (operator, name, lambda x: x.to("meta"), ValueError, "on one device.*meta"),
                    (operator, name, lambda x: x[[0, 1, 0]], ValueError, "batch size"),
                ]
            if name not in ("image", "images"):
                cases += [(operator, name, lambda x: x[:, :1], ValueError, "must have shape")]
        for name, words in operator.every.items():
            if isinstance(words[0], str):
                message = f"{name} must be one of '{words[0]}'"
                cases += [
                    (operator, name, lambda _: "none", ValueError, f"{message}.*got 'none'"),
                ]
        cases += [
            (operator, "backend", lambda _: "gpu", ValueError, "one of 'auto', 'cpu'"),
            (operator, "backend", lambda _: "cuda", RuntimeError, "cannot serve .* on cpu"),
        ]
    return [pytest.param(*case, id=f"{case[0]}-{case[1]}-{i}") for i, case in enumerate(cases)]


@pytest.mark.parametrize(("operator", "name", "change", "error", "message"), refused())
def test_refused_inputs(operator, name, change, error, message):
    variant = plain(operator)
    arguments: Tensors | Options = operator.inputs(SIZES["2d"], variant, torch.float64)
    arguments |= operator.options(variant, SIZES["2d"], torch.float64)
    arguments |= {"backend": "auto"}
    assert operator.result(operator.function(**arguments)).numel()
    arguments[name] = change(arguments[name])
    with pytest.raises(error, match=message):
        operator.function(**arguments)


def test_the_suite_has_every_public_operator():
    assert set(OPERATORS) == set(plasticine.ops.REGISTRY)
