"""Dataclasses of tensors in a safetensors file, and back."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from plasticine.nn.tensor_file import load_tensors, save_tensors

_FORMAT_VERSION = 1
_Kind = TypeVar("_Kind")


def save_dataclass(path: Path, instance: Any) -> None:
    """Writes a dataclass whose fields are tensors, dataclasses, None or what JSON holds.

    Args:
        path: ``.safetensors``; it appears or changes only when all is written.
        instance: the dataclass.

    Raises:
        OSError: the folder cannot be written to.
        TypeError: a field is something else.
    """
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for name, value in _flat(instance):
        if isinstance(value, Tensor):
            shared = any(value.data_ptr() == other.data_ptr() for other in tensors.values())
            tensors[name] = value.clone() if shared else value
        else:
            plain[name] = value
    metadata = {
        "format": _format(type(instance)),
        "format_version": _FORMAT_VERSION,
        "fields": plain,
    }
    save_tensors(path, tensors, metadata)


def load_dataclass(path: Path, kind: type[_Kind]) -> _Kind:
    """Reads what `save_dataclass` wrote.

    Args:
        path: the file.
        kind: the dataclass.

    Returns:
        An equal one, its tensors on the CPU; what were tuples are lists.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else, or is of another version.
    """
    tensors, metadata = load_tensors(path)
    found = metadata.get("format"), metadata.get("format_version")
    if found != (_format(kind), _FORMAT_VERSION):
        raise ValueError(
            f"{path}: expected {_format(kind)!r} of version {_FORMAT_VERSION}; got "
            f"{found[0]!r} of version {found[1]}"
        )
    values = {**metadata["fields"], **tensors}
    try:
        instance: _Kind = _built(kind, values, "")
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: no whole {kind.__name__}: {error}") from error
    return instance


def _format(kind: type) -> str:
    return f"plasticine {kind.__name__}"


def _flat(instance: Any, prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        name = prefix + field.name
        inner = dataclasses.is_dataclass(value)
        found += _flat(value, f"{name}.") if inner else [(name, value)]
    return found


def _built(kind: Any, values: dict[str, Any], prefix: str) -> Any:
    hints = typing.get_type_hints(kind)
    arguments = {}
    for field in dataclasses.fields(kind):
        name = prefix + field.name
        if dataclasses.is_dataclass(hints[field.name]):
            arguments[field.name] = _built(hints[field.name], values, f"{name}.")
        else:
            arguments[field.name] = values[name]
    return kind(**arguments)
