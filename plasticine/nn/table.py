"""Tables that a user's file holds: which keys, of what type and range, and what is wrong."""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError

T = TypeVar("T", bound="Table")


class Table(BaseModel):
    """A table of a recipe or of a model file, whose fields are its keys.

    A whole number is no true or false and has no decimal point, numbers are finite, and a key
    that is no field is refused. A field may be a dataclass, which is held to the same rules.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def read(cls: type[T], content: object, where: str) -> T:
        """The table that a file holds.

        Args:
            content: what was read of the file, as JSON or TOML knows it; tuples are lists.
            where: what to call the file in an error.

        Raises:
            ValueError: a key is missing or not known, or a value is not what the field takes.
                It names the table, the key, what was expected and what was got, of every fault.
        """
        try:
            # By way of JSON, in which a list is a tuple and nothing else is taken for another.
            return cls.model_validate_json(json.dumps(content, default=str))
        except ValidationError as error:
            faults = "; ".join(dict.fromkeys(_faults(cls, content, error)))
            raise ValueError(f"{where}: {faults}") from error
        except (RecursionError, ValueError) as error:
            raise ValueError(f"{where}: it cannot be read: {error}") from error


def _faults(kind: type[Table], content: Any, error: ValidationError) -> Iterator[str]:
    """Each fault in words: where it is, what was expected, and what was got."""
    for fault in error.errors():
        code, value, context = fault["type"], fault["input"], fault.get("ctx", {})
        path = _path(content, fault["loc"], missing=code.startswith("missing"))
        if code in ("extra_forbidden", "unexpected_keyword_argument"):
            message = "unknown key" + _nearest(kind, path)
        elif code.startswith("missing"):
            message = "missing"
        elif code == "union_tag_not_found":
            path, message = [*path, "name"], "missing"
        elif code == "union_tag_invalid":
            path = [*path, "name"]
            message = f"expected {context['expected_tags']}; got {value['name']!r}"
        elif code == "too_short" and len(value) >= context["min_length"]:
            continue  # too few are right, and of the others each has been told
        elif code in ("too_short", "too_long"):
            bound = context.get("min_length", context.get("max_length"))
            least = "least" if code == "too_short" else "most"
            message = f"expected at {least} {bound} values; got {_shortened(value)}"
        elif code == "json_invalid":
            # It was written as JSON above, so that these two alone can be wrong with it.
            deep = "recursion" in context["error"]
            reason = "nested too deeply" if deep else "text with half of a surrogate pair"
            message = f"it cannot be read: {reason}"
        elif code == "value_error":
            message = fault["msg"].removeprefix("Value error, ")
        else:
            expected = fault["msg"].replace("Input should be", "expected")
            message = f"{expected}; got {_shortened(value)}"
        yield f"{_place(content, path)}{message}"


def _path(content: Any, location: Sequence[int | str], *, missing: bool) -> list[int | str]:
    """The keys of a fault's location that are the file's, and none of the definition's own."""
    path: list[int | str] = []
    tagged = False
    for part in location:
        # The name that tells which of several tables a table is; the file's own has none.
        if path and not tagged and isinstance(content, Mapping) and content.get("name") == part:
            tagged = True
            continue
        try:
            content, tagged = content[part], False
        except (KeyError, IndexError, TypeError):
            continue
        path.append(part)
    return [*path, location[-1]] if missing and location else path


def _place(content: Any, path: Sequence[int | str]) -> str:
    if not path:
        return ""
    first, *rest = map(str, path)
    if isinstance(content, Mapping) and isinstance(content.get(first), Mapping):
        return f"[{first}] {'.'.join(rest)}: " if rest else f"[{first}]: "
    return f"{'.'.join([first, *rest])}: "


def _nearest(kind: type, path: Sequence[int | str]) -> str:
    """The known key that an unknown one, the path's last, was most likely meant for."""
    kinds: list[Any] = [kind]
    for part in path[:-1]:
        inner = [_fields(each)[part] for each in kinds if part in _fields(each)]
        kinds = [each for annotation in inner for each in _tables(annotation)]
    known = sorted({name for each in kinds for name in _fields(each)})
    close = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
    known_keys = f"; known are {', '.join(known)}" if known else ""
    return f", did you mean {close[0]!r}?" if close else known_keys


def _fields(kind: Any) -> dict[Any, Any]:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return get_type_hints(kind)
    return {name: field.annotation for name, field in kind.model_fields.items()}


def _tables(annotation: Any) -> Iterator[Any]:
    """The tables and dataclasses that a field may hold."""
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        for part in get_args(annotation):
            yield from _tables(part)
    elif isinstance(annotation, type) and (
        dataclasses.is_dataclass(annotation) or issubclass(annotation, Table)
    ):
        yield annotation


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
