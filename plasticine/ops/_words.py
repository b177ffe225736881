"""The words that other projects have for ours: an error names what to write instead.

A function or module ends its parameters with ``**_unknown: NoReturn``, so that type checkers refuse
what they always did, and hands what arrives there to :func:`refuse`. A wrapper around it would take
half a microsecond of every call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, NoReturn

_FIELDS = ("displacement", "velocity", "u", "v")
#: What the arguments of MONAI, VoxelMorph, deepali, torch-interpol and F.grid_sample are here: the
#: first of these that the function has.
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "ddf": _FIELDS,
    "disp": _FIELDS,
    "dvf": ("velocity", *_FIELDS),
    "flow": _FIELDS,
    "svf": ("velocity",),
    "vec": ("velocity", *_FIELDS),
    "input": ("image", "x"),
    "img": ("image", "x"),
    "src": ("image", "x"),
    "moving": ("image", "x"),
    "padding_mode": ("padding",),
    "bound": ("padding",),
    "interpolation": ("mode",),
    "interpolation_mode": ("mode",),
    "interp": ("mode",),
    "num_steps": ("steps",),
    "nsteps": ("steps",),
    "int_steps": ("steps",),
}
#: Arguments that are nothing here, and why.
WITHOUT: dict[str, str] = {
    "align_corners": "fields are in voxels, as with align_corners=True",
    "grid": "it takes a displacement in voxels, which is the grid's coordinates less p itself",
}
#: The same of the values of options.
VALUES: dict[str, str] = {
    "bilinear": "linear",
    "trilinear": "linear",
    "bicubic": "cubic",
    "tricubic": "cubic",
    "zero": "zeros",
    "constant": "zeros",
    "replicate": "border",
    "edge": "border",
    "clamp": "border",
    "nearest": "border",
    "reflect": "reflection",
    "mirror": "reflection",
}


def refuse(function: Callable[..., Any], name: str, unknown: Mapping[str, Any]) -> NoReturn:
    """Raises TypeError for arguments that a function has not, with what to write instead.

    Args:
        function: which has not got them, but takes them to say so here.
        name: of it, as users write it.
        unknown: the arguments.
    """
    known = inspect.signature(function).parameters
    message = f"{name} has no argument {', '.join(map(repr, unknown))}"
    hints = (_hint(word, known) for word in unknown)
    raise TypeError("; ".join([message, *filter(None, hints)]))


def _hint(word: str, known: Collection[str]) -> str:
    ours = next((name for name in ARGUMENTS.get(word, ()) if name in known), None)
    return f"write {ours}= for {word}=" if ours else WITHOUT.get(word, "")


def instead_of(value: Any, allowed: Collection[str]) -> str:
    """What to say of an option's value that is another project's word for one that is allowed."""
    ours = VALUES.get(value) if isinstance(value, str) else None
    return f"; write {ours!r} for {value!r}" if ours in allowed else ""
