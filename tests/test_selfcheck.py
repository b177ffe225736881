"""``python -m plasticine.selfcheck``: it passes what is right, and finds what is wrong."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Run, ran
from torch import Tensor

from plasticine import backends, selfcheck
from plasticine.conformance import OPERATORS
from plasticine.ops import REGISTRY

needs_native = pytest.mark.skipif(backends.NATIVE is None, reason=str(backends.NATIVE_ERROR))


@needs_native
def test_as_a_process(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "plasticine.selfcheck", "compose", "jacobian")
    done = ran(*command, folder=tmp_path, COLUMNS="120", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.splitlines() == ["checking compose, 0/72", "checking jacobian, 36/72"]
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["compose", "cpu", "36"] in [row[:3] for row in rows]
    assert ["jacobian", "cpu"] in [row[:2] for row in rows]
    assert "All agree" in done.stdout
    if backends.available()["cuda"] is not None:
        assert "Not checked: cuda: " in done.stdout


def test_every_operator_is_checked() -> None:
    assert OPERATORS.keys() == REGISTRY.keys()
    for name, operator in OPERATORS.items():
        cases = list(selfcheck._cases(operator))
        assert {len(case.sizes[0]) for case in cases} == {2, 3}
        assert {case.unusual for case in cases} == {"", "NaN", "constant"}
        for option, words in operator.every.items():
            compiled = [case.variant[option] for case in cases if case.once]
            assert set(words) <= set(compiled), (name, option)


def change(gradient: Tensor) -> Tensor:
    gradient.view(-1)[7] += 0.01
    return gradient


def spread(result: Tensor) -> Tensor:
    """A NaN, to the samples after its own."""
    return result + 0 * result.sum()


def hide(result: Tensor) -> Tensor:
    """A constant's result."""
    return result.masked_fill(result == result.flatten()[0], float("nan"))


def fail(result: Tensor) -> Tensor:
    raise RuntimeError("no kernel image is available")


@needs_native
@pytest.mark.parametrize(
    ("kernel", "spoil", "message"),
    [
        ("jacobian_backward", change, "DIFFERS: gradient of displacement, "),
        ("jacobian_forward", spread, "float32 NaN"),
        ("jacobian_forward", hide, "DIFFERS: result, "),
        ("jacobian_forward", fail, "RuntimeError: no kernel image is available"),
    ],
)
def test_what_is_wrong_is_found(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    kernel: str,
    spoil: Callable[[Tensor], Tensor],
    message: str,
) -> None:
    module = importlib.import_module("plasticine.ops.jacobian")
    forward, backward = module.JACOBIAN, module.JACOBIAN_BACKWARD
    serve = {"jacobian_forward": forward, "jacobian_backward": backward}[kernel].serve
    right = serve["cpu"]
    monkeypatch.setitem(serve, "cpu", lambda *x: spoil(right(*x)))
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = run("selfcheck", "jacobian", "compose")
    assert code == 1
    assert err.startswith("checking jacobian, 0/")
    assert message in out
    assert "1 of 2 rows do not agree" in out


def test_an_unknown_operator(run: Run) -> None:
    code, _, err = run("selfcheck", "warpp")
    assert code == 1
    assert "an operator must be one of 'warp', 'splat'" in err
    assert "'warpp'" in err
