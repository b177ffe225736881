"""Whether a drop-in is called as what it replaces is."""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

# What a caller of an object of theirs calls by name.
_METHODS = ("forward", "loss")


def difference(theirs: Any, ours: Any) -> str | None:
    """How the signature of an original, and those of its methods, differ from a drop-in's."""
    pairs = [("", theirs, ours)]
    if inspect.isclass(theirs):
        for method in _METHODS:
            if callable(getattr(theirs, method, None)):
                pairs.append((f".{method}", getattr(theirs, method), getattr(ours, method, None)))
    for name, their_callable, our_callable in pairs:
        got = _signature(their_callable)
        expected = None if our_callable is None else _signature(our_callable)
        if got != expected:
            return f"expected {name or 'signature'}{_text(expected)}, got {_text(got)}"
    return None


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    """Names, kinds and defaults alone; for a member of an enum of theirs stands its value."""
    bare = []
    for parameter in inspect.signature(function).parameters.values():
        default = parameter.default
        default = default.value if isinstance(default, Enum) else default
        bare.append(parameter.replace(annotation=inspect.Parameter.empty, default=default))
    return inspect.Signature(bare)


def _text(signature: inspect.Signature | None) -> str:
    return "none" if signature is None else str(signature)


def missing(project: str, ours: ModuleType) -> str:
    """What a project's source takes of a module that ours has not, or calls otherwise."""
    found = importlib.util.find_spec(project)
    folder = Path(found.origin).parent if found is not None and found.origin else Path()
    for path in sorted(folder.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for alias in node.names
            if alias.name == ours.STANDS_FOR
        }
        for node in ast.walk(tree):
            what = node.func if isinstance(node, ast.Call) else node
            if not (isinstance(what, ast.Attribute) and isinstance(what.value, ast.Name)):
                continue
            if what.value.id not in names:
                continue
            place = f"{path.relative_to(folder.parent)}:{what.lineno}"
            function = getattr(ours, what.attr, None)
            if function is None:
                return f"{place} wants {what.attr}"
            if not isinstance(node, ast.Call) or any(
                isinstance(argument, ast.Starred) for argument in node.args
            ):
                continue
            keywords = {word.arg: None for word in node.keywords if word.arg}
            try:
                inspect.signature(function).bind(*node.args, **keywords)
            except TypeError as error:
                return f"{place}: {what.attr}: {error}"
    return ""
