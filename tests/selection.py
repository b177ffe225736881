"""Which tests a process runs, where a GPU is lent for minutes: options of conftest.py."""

from __future__ import annotations

import argparse
import random

import pytest

# In Triton's interpreter and emulated they take CPU tensors.
GPU_BACKENDS = ("cuda", "triton")


def share(text: str) -> tuple[int, int]:
    """Reads "K/N"."""
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"K/N with 1 <= K <= N was expected, got {text!r}")
    return int(part), int(parts)


def thinned(items: list[pytest.Item], most: int) -> list[pytest.Item]:
    """Of each test on each backend of a GPU, ``most`` cases or as many as hold every value."""
    groups: dict[tuple[str, str], list[pytest.Item]] = {}
    for item in items:
        served = item.callspec.params.get("served") if hasattr(item, "callspec") else None
        if served is not None and (served.device == "cuda" or served.backend in GPU_BACKENDS):
            name = item.nodeid.partition("[")[0]
            groups.setdefault((name, str(served)), []).append(item)
    dropped: set[int] = set()
    for (name, served), group in groups.items():
        random.Random(f"{name} {served}").shuffle(group)
        kept = covering(group)
        spare = [item for item in group if item not in kept]
        dropped.update(map(id, spare[max(0, most - len(kept)) :]))
    return [item for item in items if id(item) not in dropped]


def covering(group: list[pytest.Item]) -> list[pytest.Item]:
    """Cases of one test that hold every value of every parameter: whichever adds most, in turn."""
    values = {
        id(item): {(key, str(value)) for key, value in item.callspec.params.items()}
        for item in group
    }
    missing = set().union(*values.values())
    found = []
    while missing:
        found.append(max(group, key=lambda item: len(missing & values[id(item)])))
        missing -= values[id(found[-1])]
    return found
