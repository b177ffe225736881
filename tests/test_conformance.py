"""Every operator on every backend against its definition: values, gradients, memory, edges.

Of Triton's interpreter and of CUDA emulated on the CPU (PLASTICINE_KERNELS, in processes of their
own: test_kernels_triton.py, test_cuda_build.py) each takes a part of the cases: all words of all
options, but not all together.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import kernel_backends
import pytest
import torch
from comparison import assert_close, order_of_sums
from torch import Tensor

from plasticine.conformance import (
    HALF,
    OPERATORS,
    SIZES,
    Operator,
    Options,
    Tensors,
    gradients,
    random_like,
    set_worst_aside,
    variants,
)
from plasticine.ops._kernels import SHARED_SIZE

ALL = list(OPERATORS.values())
DTYPES = [
    *((dtype, dtype) for dtype in (torch.float64, torch.float32, *HALF)),
    *((dtype, torch.float32) for dtype in HALF),
]
# The sizes for a slow backend: other dtypes take the first of them.
IN_FLOAT64 = ("3d-small", "3d-thin", "3d", "2d-long")
# Minutes in Triton's interpreter, as every voxel meets every bin.
SLOWEST = ("joint_histogram", "2d-long")
# An operator with the dtypes of its images and of its fields, and sizes.
TYPED = [
    pytest.param(
        operator,
        *dtypes,
        size,
        id=f"{operator}-{dtypes[0]}-{dtypes[1]}-{size}".replace("torch.", ""),
    )
    for operator, dtypes, size in itertools.product(ALL, DTYPES, SIZES)
    if dtypes[0] == dtypes[1] or operator.takes_image
    if kernel_backends.NAMED is None or size in IN_FLOAT64[: 4 if dtypes == DTYPES[0] else 1]
    if kernel_backends.NAMED != "triton" or (operator.name, size) != SLOWEST
]
DIMENSIONS = {"2d": SIZES["2d"], "3d": SIZES["3d"]}


def chosen(operator: Operator, served: Any, *which: Any, strength: int = 3) -> list[Options]:
    """The variants of an operator; of a slow backend, and of the definition itself, few.

    Which, depends on the test's parameters. Of a slow backend one, where they are few elsewhere.
    """
    if served.slow or served.backend == "reference":
        few = variants(operator.name, 1, sum(map(ord, str(which))) % 7)
        return few[:1] if served.slow and strength < 3 else few
    return variants(operator.name, strength)


def compare(
    operator: Operator,
    served: Any,
    inputs: Tensors,
    options: Options,
    needs: list[str] | None = None,
) -> None:
    """Result and gradients against the definition in float64, from the rounded inputs."""
    leaves = operator.leaves(inputs, device=served.device)
    exact = operator.leaves(inputs, dtype=torch.float64)
    for name in () if needs is None else set(inputs) - set(needs):
        leaves[name].requires_grad_(False)
    result = operator(leaves, options, served.backend)
    expected = operator.definition(**exact, **options)
    dtype = operator.result_dtype(next(iter(inputs.values())).dtype)
    assert result.dtype == dtype
    assert result.is_contiguous()
    rounded_to = dtype if operator.differentiable else next(iter(inputs.values())).dtype
    assert_close(result, expected, rounded_to, operator.rounding, equal_nan=True)
    assert result.requires_grad == (operator.differentiable > 0)
    if not operator.differentiable:
        return
    grad = random_like(expected, dtype)
    rounding = operator.gradient_rounding or operator.rounding
    found = gradients(result, leaves, grad.to(served.device))
    for name, wanted in gradients(expected, exact, grad.double()).items():
        if name in found:
            assert found[name].dtype == inputs[name].dtype
            assert found[name].is_contiguous()
            if operator.kinks and dtype != torch.float64:
                set_worst_aside(found[name], wanted)
            assert_close(found[name], wanted, inputs[name].dtype, rounding)


@pytest.mark.parametrize(("operator", "dtype", "field", "size"), TYPED)
def test_equals_the_float64_definition(served, operator, dtype, field, size):
    for variant in chosen(operator, served, size, dtype, field):
        options = operator.options(variant, SIZES[size], field)
        inputs = operator.inputs(SIZES[size], variant, dtype, field)
        compare(operator, served, inputs, options)


@pytest.fixture(params=["atomics", "deterministic"])
def poisoned(request, monkeypatch) -> Iterator[None]:
    """Memory that starts as NaN, with the algorithms of the deterministic mode or the others."""
    torch.use_deterministic_algorithms(True)
    if request.param == "atomics":
        monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: False)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("sizes", DIMENSIONS.values(), ids=DIMENSIONS)
@pytest.mark.parametrize("operator", ALL, ids=str)
def test_results_are_written_in_full_and_gradients_where_asked(served, operator, sizes):
    dtype = torch.float32 if served.slow and len(sizes[0]) == 2 else torch.float64
    every = variants(operator.name, 1 if operator.differentiable else 2)
    wanted = [
        names
        for count in range(1, len(operator.variables) + 1)
        for names in itertools.combinations(operator.variables, count)
    ]
    for i in range(max(len(every), len(wanted))):
        variant, needs = every[i % len(every)], wanted[i % len(wanted)]
        if served.slow and i >= len(every):
            break
        variant = variant | {name: True for name in needs if name in variant}
        options = operator.options(variant, sizes, dtype)
        inputs = operator.inputs(sizes, variant, dtype)
        compare(operator, served, inputs, options, list(needs))


# Memory


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The values of ``x`` in memory that is not contiguous, with NaN between them."""
    if layout == "transposed" and x.dim() == 1:
        layout = "sliced"
    if layout == "channels last":
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "transposed":
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "sliced":
        larger = x.new_full([2 * n + 1 for n in x.shape], math.nan)
        return larger[tuple(slice(1, None, 2) for _ in x.shape)].copy_(x)
    if layout == "offset rows":
        return x.new_full((*x.shape[:-1], x.shape[-1] + 3), math.nan)[..., 2:-1].copy_(x)
    if layout == "expanded":  # along the batch, the channels, an axis
        return x[:1, :1, :1].expand_as(x) if x.dim() > 3 else x[:1].expand_as(x)
    # Rows of 2**30 elements, of which only the pages that hold values are ever touched.
    strides = (2**31 + 128, 2**5, *(2**8, 2**30, 1)[-(x.dim() - 2) :])[: x.dim()]
    try:
        memory = x.new_empty(sum((n - 1) * s for n, s in zip(x.shape, strides, strict=True)) + 1)
    except RuntimeError as error:
        pytest.skip(f"so much address space is not to be had: {error}")
    return memory.as_strided(x.shape, strides).copy_(x)


def assert_layout_does_not_matter(
    operator: Operator, served: Any, options: Options, views: Tensors, grad_layout: str
) -> None:
    """Result and gradients of the views are those of contiguous copies, but for rounding."""
    runs = []
    for tensors in (views, {name: x.contiguous() for name, x in views.items()}):
        leaves = {
            name: x.detach().requires_grad_(name in operator.variables)
            for name, x in tensors.items()
        }
        result = operator(leaves, options, served.backend)
        assert result.is_contiguous()
        if not operator.differentiable:
            runs.append([result])
            continue
        grad = random_like(result).to(served.device)
        if grad_layout in ("expanded", "transposed", "sliced", "far"):
            grad = laid_out(grad, grad_layout)
        grad = grad if tensors is views else grad.contiguous()
        runs.append([result, *gradients(result, leaves, grad).values()])
    for found, expected in zip(*runs, strict=True):
        assert_close(found, expected, found.dtype, operator.rounding, equal_nan=True)


LAYOUTS = ["channels last", "transposed", "sliced", "offset rows", "expanded"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", ["2d-long", "3d-long"])
@pytest.mark.parametrize("operator", ALL, ids=str)
def test_strides_do_not_matter(served, operator, size, layout):
    sizes = DIMENSIONS[size[:2]] if served.slow else SIZES[size]
    for variant in chosen(operator, served, size, layout, strength=1):
        options = operator.options(variant, sizes, torch.float32)
        inputs = operator.inputs(sizes, variant, torch.float32)
        views = {name: laid_out(x.to(served.device), layout) for name, x in inputs.items()}
        assert not any(views[name].is_contiguous() for name in operator.variables if name in views)
        assert_layout_does_not_matter(operator, served, options, views, layout)


@pytest.mark.usefixtures("overflow_checked")
@pytest.mark.parametrize(
    ("operator", "far"),
    [
        (operator, name)
        for operator in ALL
        for name in (*operator.tensors, *["grad"] * (operator.differentiable > 0))
        if name != "affine"
    ],
    ids=str,
)
def test_offsets_beyond_32_bits(served, operator, far):
    """Strides that no 32-bit offset can hold, in 2D and, where it is fast, in 3D."""
    for sizes in (((3, 5), (3, 5)), ((2, 3, 5), (2, 3, 5)))[: 1 if served.slow else 2]:
        for variant in chosen(operator, served, far, strength=1):
            variant = variant | ({far: True} if far in variant else {})
            options = operator.options(variant, sizes, torch.float32)
            inputs = operator.inputs(sizes, variant, torch.float32, batch=1, channels=1)
            views = {name: x.to(served.device) for name, x in inputs.items()}
            if far != "grad":
                views[far] = laid_out(views[far], "far")
            grad_layout = "far" if far == "grad" else "contiguous"
            assert_layout_does_not_matter(operator, served, options, views, grad_layout)


@pytest.mark.parametrize(
    ("operator", "alone"),
    [
        (operator, name)
        for operator in ALL
        if len(operator.tensors) > 1
        for name in operator.tensors
    ],
    ids=str,
)
def test_a_batch_of_one_meets_a_batch_of_many(served, operator, alone):
    """One tensor for three samples; its gradient is the sum of the three."""
    for variant in chosen(operator, served, alone, strength=1):
        variant = variant | ({alone: True} if alone in variant else {})
        options = operator.options(variant, SIZES["2d"], torch.float64)
        inputs = operator.inputs(SIZES["2d"], variant, torch.float64, batch=3)
        inputs = {k: x[: 1 if k == alone else 3] for k, x in inputs.items()}
        inputs = operator.leaves(inputs, device=served.device)
        repeated = {k: x.repeat(3 // len(x), *[1] * (x.dim() - 1)) for k, x in inputs.items()}
        result = operator(inputs, options, served.backend)
        expected = operator(repeated, options, served.backend)
        assert_close(result, expected, torch.float64)
        grad = random_like(result).to(served.device)
        found, wanted = (gradients(x, inputs, grad) for x in (result, expected))
        for name in found:
            assert_close(found[name], wanted[name], torch.float64)


# Edges: batch, channels, what is sampled, and the grid.
EMPTY: list[tuple[int, int, tuple[int, ...], tuple[int, ...]]] = [
    (0, 2, (4, 5), (4, 5)),
    (2, 0, (4, 5), (3, 3)),
    (2, 3, (4, 5), (0, 5)),
    (2, 3, (0, 5), (4, 0)),
    (0, 1, (3, 4, 5), (3, 4, 5)),
    (1, 2, (3, 4, 5), (3, 0, 5)),
    (1, 2, (2, 3, 0), (2, 3, 0)),
]


@pytest.mark.parametrize(("batch", "channels", "source", "grid"), EMPTY)
@pytest.mark.parametrize("operator", ALL, ids=str)
def test_empty_tensors(served, operator, batch, channels, source, grid):
    for variant in chosen(operator, served, grid, strength=1):
        options = operator.options(variant, (source, grid), torch.float32)
        shape = {"batch": batch, "channels": channels}
        inputs = operator.inputs((source, grid), variant, torch.float32, **shape)
        compare(operator, served, inputs, options)


@pytest.mark.usefixtures("overflow_checked")
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize(
    ("operator", "name"),
    [(operator, name) for operator in ALL if operator.local for name in operator.tensors],
    ids=str,
)
def test_what_is_not_finite_stays_where_it_is_met(served, operator, name, value):
    """One value: other samples are as before, and so is all that the definition has finite.

    But for what one value makes of its own gradient, and for what is sampled, where a weight of
    zero may read it or not.
    """
    sizes = SIZES["2d" if math.isnan(value) or not served.slow else "3d"]
    sampled = name in ("image", "u")
    alike = sampled or name == "mask" or operator.name in ("jacobian", "folding")
    if (name == "affine" and not math.isnan(value)) or (value == 1e30 and alike):
        pytest.skip("defined by the order of operations, or a number like others")
    for variant in chosen(operator, served, value, strength=2):
        variant = variant | ({name: True} if name in variant else {})
        options = operator.options(variant, sizes, torch.float64)
        if value == 1e30 and "reflection" in options.values():
            continue  # its phase is lost to rounding
        inputs = operator.inputs(sizes, variant, torch.float64)
        inputs[name][0, 0].view(-1)[inputs[name][0, 0].numel() // 2] = value
        leaves = operator.leaves(inputs, device=served.device)
        exact = operator.leaves(inputs)
        result = operator(leaves, options, served.backend)
        expected = operator.definition(**exact, **options)
        pairs = [(result, expected, not sampled)]
        assert sampled or torch.equal(result.isfinite().cpu(), expected.isfinite())
        if operator.differentiable:
            grad = random_like(expected)
            found = gradients(result, leaves, grad.to(served.device))
            wanted = gradients(expected, exact, grad)
            strict = not sampled and operator.name != "splat"
            pairs += [(found[k], wanted[k], strict and k != name) for k in found]
        for actual, right, strict in pairs:
            actual, right = actual.detach().cpu(), right.detach()
            assert actual[1].isfinite().all()
            assert right[1].isfinite().all()
            compared = right.isfinite() & (actual.isfinite() | strict)
            torch.testing.assert_close(actual[compared], right[compared], rtol=1e-9, atol=1e-9)


# Threads, atomics, finite differences
SHARED = [
    ((11, 9, 37), (13, 11, 37)),
    ((3, 37, 33), (13, 11, 37)),
    ((37, 3, 33), (13, 11, 37)),
    ((40, 75), (67, 71)),
    ((11, 67), (67, 71)),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("sizes", SHARED, ids=str)
@pytest.mark.parametrize("operator", ALL, ids=str)
def test_the_same_bits_for_any_number_of_threads(native, operator, sizes, dtype):
    """Where many voxels meet, and whichever axis is shared out."""
    before = torch.get_num_threads()
    for variant in variants(operator.name, 1, len(sizes[0]) + sizes[0][0]):
        options = operator.options(variant, sizes, torch.float32)
        inputs = operator.inputs(sizes, variant, dtype, batch=1, channels=3)
        assert max(x.numel() for x in inputs.values()) >= SHARED_SIZE or len(sizes[0]) == 2
        for name in {"affine", "displacement", "v"} & set(inputs):
            inputs[name].select(-1, 0).mul_(0.1)  # what crowds
        runs = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            try:
                leaves = operator.leaves(inputs)
                result = operator(leaves, options, "cpu")
                grad = random_like(result)
                found = gradients(result, leaves, grad) if operator.differentiable else {}
            finally:
                torch.set_num_threads(before)
            runs.append([result, *found.values()])
        for other in runs[1:]:
            assert all(torch.equal(x, y) for x, y in zip(runs[0], other, strict=True)), options


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("operator", ALL, ids=str)
def test_deterministic_algorithms_give_the_same_bits_every_time(served, operator):
    if served.slow:
        pytest.skip("it runs in one order; kernel_cases has others")
    sizes = ((5, 4, 3), (17, 16, 15))
    for variant in variants(operator.name, 1):
        options = operator.options(variant, sizes, torch.float32)
        inputs = operator.inputs(sizes, variant, torch.float32, batch=1)
        runs = []
        for _ in range(3):
            leaves = operator.leaves(inputs, device=served.device)
            result = operator(leaves, options, served.backend)
            grad = random_like(result).to(served.device)
            found = gradients(result, leaves, grad) if operator.differentiable else {}
            runs.append([result, *found.values()])
        for other in runs[1:]:
            assert all(torch.equal(x, y) for x, y in zip(runs[0], other, strict=True)), options


@pytest.mark.parametrize("size", ["2d", "3d"])
@pytest.mark.parametrize("operator", [x for x in ALL if x.differentiable], ids=str)
def test_gradients_are_those_of_differences(served, operator, size):
    """And the second derivatives, and tangents, where there are any."""
    if served.slow:
        pytest.skip("the definition's gradients are checked, and these are compared with them")
    sizes = SIZES[size]
    for variant in variants(operator.name, 1, len(sizes[0])):
        options = operator.options(variant, sizes, torch.float64)
        inputs = operator.inputs(sizes, variant, torch.float64, batch=1, channels=2)
        leaves = list(operator.leaves(inputs, device=served.device).values())

        def function(*tensors: Tensor, inputs: Tensors = inputs, options: Any = options) -> Tensor:
            return operator(dict(zip(inputs, tensors, strict=True)), options, served.backend)

        how = {"fast_mode": True, "nondet_tol": order_of_sums(leaves[0])}
        forward = operator.tangent(options)
        torch.autograd.gradcheck(function, leaves, check_forward_ad=forward, **how)
        if operator.twice(options) and served.backend != "reference":  # whose they are everywhere
            torch.autograd.gradgradcheck(function, leaves, check_fwd_over_rev=forward, **how)
