"""Which tests a process runs where a GPU is lent for minutes."""

from __future__ import annotations

import argparse
import itertools
from types import SimpleNamespace

import pytest
from selection import share, thinned


def cases(device: str) -> list[SimpleNamespace]:
    """Of one test with three parameters, on one backend."""
    served = SimpleNamespace(backend="triton" if device == "cuda" else "cpu", device=device)
    return [
        SimpleNamespace(
            nodeid=f"test_x.py::test_y[{mode}-{size}-{dtype}]",
            callspec=SimpleNamespace(
                params={"served": served, "mode": mode, "size": size, "dtype": dtype}
            ),
        )
        for mode, size, dtype in itertools.product("abc", range(10), "xy")
    ]


@pytest.mark.parametrize("most", [0, 10, 25, 100])
def test_thinned_keeps_every_value(most):
    items = cases("cuda")
    kept = thinned(list(items), most)
    for name in ("mode", "size", "dtype"):
        values = {item.callspec.params[name] for item in items}
        assert {item.callspec.params[name] for item in kept} == values
    assert min(most, len(items)) <= len(kept) <= max(most, 14)
    assert kept == [item for item in items if item in kept], "the order stays"
    assert thinned(list(items), most) == kept, "every process takes the same"


def test_thinned_leaves_the_cpu_alone():
    items = [*cases("cpu"), SimpleNamespace(nodeid="test_x.py::test_z")]
    assert thinned(items, 1) == items


@pytest.mark.parametrize("text", ["", "1", "0/3", "4/3", "a/b", "1/2/3"])
def test_a_share_that_is_none_is_refused(text):
    assert share("2/3") == (2, 3)
    with pytest.raises(argparse.ArgumentTypeError, match="K/N with 1 <= K <= N"):
        share(text)
