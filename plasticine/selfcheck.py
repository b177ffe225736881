"""``python -m plasticine.selfcheck``: whether what is installed computes right on this machine.

Every operator on every backend that can be used here, on the CPU and on each GPU, against its
definition in float64 on the CPU: results and gradients, in 2D and 3D, every word of every option;
of random numbers, of a sample that holds NaN beside another, and of constants.
A kernel that was built for another GPU, or a driver or compiler that is at fault, may give wrong
numbers without an error; this finds them.
"""

from __future__ import annotations

import itertools
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from plasticine import backends
from plasticine.conformance import (
    OPERATORS,
    Operator,
    Options,
    Sizes,
    Tensors,
    gradients,
    random_like,
    set_worst_aside,
    variants,
)
from plasticine.ops._checks import one_of

# Rows longer than a SIMD register, several blocks of a GPU, and more than one thread on a CPU.
SIZES: tuple[Sizes, ...] = (((33, 38), (61, 70)), ((7, 9, 19), (11, 10, 25)))
# The other types take the definition's time again: of few words, and of smaller images.
SMALL: tuple[Sizes, ...] = (((9, 20), (11, 18)), ((4, 5, 9), (5, 4, 11)))
# How many words of different options meet, whichever they are.
DTYPES = ((torch.float32, 2), (torch.float64, 1), (torch.float16, 1), (torch.bfloat16, 1))
# What tensors hold, beside random numbers; in float32, of smaller images, each word once.
UNUSUAL = ("NaN", "constant")
# Triton compiles for nearly every choice of words and types: in float32, each word once.
COMPILED_HERE = ("triton",)


@dataclass
class Finding:
    """How far one operator on one backend is from its definition.

    Attributes:
        operator: its name.
        backend: "cpu", "cuda", "triton" or "reference".
        device: of the tensors.
        calls: how many were compared.
        difference: the largest that was found, by what is allowed there; relative to the largest
            value expected, where that is above 1.
        allowed: what rounding explains there.
        where: type, dimension, options, and what differs: the result, or a gradient.
        error: what a call raised, where one did.
    """

    operator: str
    backend: str
    device: str
    calls: int = 0
    difference: float = 0.0
    allowed: float = 1.0
    where: str = ""
    error: str = ""

    @property
    def agrees(self) -> bool:
        """Whether every difference is explained by rounding."""
        return not self.error and self.difference <= self.allowed


@dataclass(frozen=True)
class _Case:
    """One call of an operator."""

    operator: Operator
    dtype: torch.dtype
    sizes: Sizes
    variant: Options
    once: bool
    """Whether it is one of the float32 calls that hold every word once."""
    unusual: str = ""
    """One of UNUSUAL."""

    def __str__(self) -> str:
        words = ", ".join(f"{name}={value}" for name, value in self.variant.items())
        dtype = str(self.dtype).removeprefix("torch.")
        return " ".join(x for x in (f"{len(self.sizes[0])}D", dtype, self.unusual, words) if x)

    def inputs(self) -> Tensors:
        """The tensors; of two samples where the first one has a NaN in each of them."""
        batch = 2 if self.unusual == "NaN" else 1
        inputs = self.operator.inputs(self.sizes, self.variant, self.dtype, batch=batch)
        for x in inputs.values():
            if self.unusual == "NaN":
                x[0].view(-1)[x[0].numel() // 2] = math.nan
            elif self.unusual == "constant":
                x.fill_(0.3)
        return inputs


def places() -> list[tuple[str, str]]:
    """The backends and the devices on which they are to be checked."""
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    on_gpus = [(name, gpu) for gpu in gpus for name in ("cuda", "triton", "reference")]
    return [("cpu", "cpu"), *on_gpus]


def check(
    operators: Iterable[str] | None = None,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> list[Finding]:
    """Compares every operator on every backend that can be used here with its definition.

    Args:
        operators: names of plasticine.ops.REGISTRY; None for all.
        progress: is called with the operator that is compared next, after how many calls, and of
            how many.

    Returns:
        A finding for each operator, backend and device.

    Raises:
        ValueError: an operator has no such name.
    """
    names = list(operators or OPERATORS)
    for name in names:
        one_of(name, "an operator", list(OPERATORS))
    cases = [case for name in names for case in _cases(OPERATORS[name])]
    findings: dict[tuple[str, str, str], Finding] = {}
    for done, case in enumerate(cases):
        name = case.operator.name
        progress(name, done, len(cases))
        served = [
            (backend, device)
            for backend, device in places()
            if backends.unsuited(backend, name, device) is None
            and (case.once or backend not in COMPILED_HERE)
        ]
        if not served:
            continue
        options = case.operator.options(case.variant, case.sizes, case.dtype)
        inputs = case.inputs()
        expected = _definition(case.operator, inputs, options)
        for backend, device in served:
            finding = findings.setdefault((name, backend, device), Finding(name, backend, device))
            _compare(finding, case, inputs, options, expected)
    progress(names[-1], len(cases), len(cases))
    return list(findings.values())


def _cases(operator: Operator) -> Iterator[_Case]:
    once = variants(operator.name, 1)
    for dtype, strength in DTYPES:
        others = [x for x in variants(operator.name, strength) if x not in once]
        for sizes in SIZES if dtype == torch.float32 else SMALL:
            for variant in once:
                yield _Case(operator, dtype, sizes, variant, dtype == torch.float32)
            for variant in others:
                yield _Case(operator, dtype, sizes, variant, False)
    for unusual, sizes, variant in itertools.product(UNUSUAL, SMALL, once):
        yield _Case(operator, torch.float32, sizes, variant, False, unusual)


def _definition(operator: Operator, inputs: Tensors, options: Options) -> Tensors:
    """The result and the gradients of the definition, in float64."""
    leaves = operator.leaves(inputs, dtype=torch.float64)
    result = operator.definition(**leaves, **options)
    expected = {"result": result.detach()}
    if operator.differentiable:
        grad = random_like(result, operator.result_dtype(next(iter(inputs.values())).dtype))
        for name, x in gradients(result, leaves, grad.double()).items():
            expected[f"gradient of {name}"] = x
    return expected


def _compare(
    finding: Finding, case: _Case, inputs: Tensors, options: Options, expected: Tensors
) -> None:
    """Widens a finding by one call."""
    operator, dtype = case.operator, case.dtype
    finding.calls += 1
    try:
        leaves = operator.leaves(inputs, device=finding.device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of what is NaN
            result = operator(leaves, options, finding.backend)
        found = {"result": result.detach().cpu()}
        if operator.differentiable:
            grad = random_like(result).to(finding.device)
            for name, x in gradients(result, leaves, grad).items():
                found[f"gradient of {name}"] = x.cpu()
    except Exception as error:  # whatever a broken driver or compiler makes of it
        if not finding.error:
            message = str(error).strip().splitlines() or [""]
            finding.error = f"{type(error).__name__}: {message[0]}"
            finding.where = str(case)
        return
    for name, x in found.items():
        rounding = operator.rounding
        rounded_to = dtype
        if name == "result":
            rounded_to = operator.result_dtype(dtype) if operator.differentiable else dtype
        elif operator.gradient_rounding is not None:
            rounding = operator.gradient_rounding
        right = expected[name]
        if case.unusual == "NaN":
            x, right = _known(x, right)
        elif case.unusual == "constant" and name != "result":
            # Its size is a rounding error's, of zero or of zero by zero.
            x, right = x.isfinite().double(), right.isfinite().double()
        difference = _difference(
            x, right, operator.kinks and dtype != torch.float64 and name != "result"
        )
        allowed = rounding[rounded_to]
        if not finding.where or difference / allowed > finding.difference / finding.allowed:
            finding.difference, finding.allowed = difference, allowed
            finding.where = f"{name}, {case}"


def _known(found: Tensor, expected: Tensor) -> tuple[Tensor, Tensor]:
    """Both, without what either has not finite of the first sample, which had a NaN.

    Where a weight of zero meets a NaN, the one may read it and the other not.
    """
    found, expected = found.clone(), expected.clone()
    unknown = ~(found[0].isfinite() & expected[0].isfinite())
    for x in (found, expected):
        x[0].masked_fill_(unknown, 0)
    return found, expected


def _difference(found: Tensor, expected: Tensor, kinks: bool) -> float:
    """The largest, infinite where one of both is not finite, by the largest value or 1."""
    if found.shape != expected.shape or not torch.equal(found.isfinite(), expected.isfinite()):
        return float("inf")
    if kinks:
        found, expected = found.clone(), expected.clone()
        set_worst_aside(found, expected)
    scale = expected.abs().max().item()
    return (found.double() - expected).abs().max().item() / (scale or 1.0)


def show(findings: list[Finding], console: Console) -> bool:
    """Prints the findings, what could not be checked, and the verdict; whether all agree."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("operator", "backend", "calls", "largest difference", "allowed", "verdict"):
        number = name in ("calls", "largest difference", "allowed")
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for finding in findings:
        place = "" if finding.device == "cpu" else f" on {finding.device}"
        verdict, style = "agrees", None
        if not finding.agrees:
            verdict, style = f"DIFFERS: {finding.where}", "bold red"
        difference = f"{finding.difference:.1e}"
        if finding.error:
            verdict, difference = f"FAILS: {finding.where}: {finding.error}", "–"
        table.add_row(
            finding.operator,
            finding.backend + place,
            str(finding.calls),
            difference,
            f"{finding.allowed:.1e}",
            verdict,
            style=style,
        )
    console.print(table)
    for name, reason in backends.available().items():
        if reason is not None:
            console.print(f"Not checked: {name}: {reason}", soft_wrap=True)
    wrong = sum(not finding.agrees for finding in findings)
    calls = sum(finding.calls for finding in findings)
    if not findings:
        console.print("Nothing to check: here the reference serves every call.")
    elif wrong:
        console.print(f"{wrong} of {len(findings)} rows do not agree, of {calls} calls.")
    else:
        console.print(f"All agree, in {calls} calls.")
    return wrong == 0


if __name__ == "__main__":
    from plasticine.cli import app

    app(["selfcheck", *sys.argv[1:]], prog_name="plasticine")
