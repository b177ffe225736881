"""The words that other projects have for ours: an error names what to write instead.

A function or module ends its parameters with ``**_unknown: NoReturn``, so that type checkers refuse
what they always did, and hands what arrives there to :func:`refuse`. A wrapper around it would take
half a microsecond of every call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, NoReturn, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])
#: What a tensor is that a call left out.
MISSING = inspect.Parameter.empty

_FIELDS = ("displacement", "velocity", "u", "v")
_IMAGES = ("image", "images", "x", "pred", *_FIELDS)
#: What the arguments of MONAI, VoxelMorph, deepali, torch-interpol and F.grid_sample are here: the
#: first of these that the function has.
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "ddf": _FIELDS,
    "disp": _FIELDS,
    "dvf": ("velocity", *_FIELDS),
    "flow": _FIELDS,
    "svf": ("velocity",),
    "vec": ("velocity", *_FIELDS),
    "theta": ("affine",),
    "matrix": ("affine",),
    "input": _IMAGES,
    "img": ("image", "images", "x"),
    "src": ("image", "images", "x"),
    "source": ("image", "images", "x", "pred"),
    "moving": ("image", "x", "pred"),
    "fixed": ("y", "target"),
    "pred": ("x", "v", "u"),
    "target": ("y",),
    "y_pred": ("pred", "x", "v", "u"),
    "y_true": ("target", "y"),
    "weight": ("mask",),
    "padding_mode": ("padding",),
    "bound": ("padding",),
    "interpolation": ("mode",),
    "interpolation_mode": ("mode",),
    "interp": ("mode",),
    "sampling": ("mode",),
    "shape": ("size",),
    "num_steps": ("steps",),
    "nsteps": ("steps",),
    "int_steps": ("steps",),
    "num_iters": ("iterations",),
    "max_iters": ("iterations",),
    "tol": ("tolerance",),
    "eps": ("epsilon",),
    "dilation": ("dilations",),
    "win": ("window", "kernel_size"),
    "window": ("kernel_size",),
    "window_size": ("window", "kernel_size"),
    "kernel_size": ("window",),
    "kernel": ("kernel_type",),
    "kernel_type": ("kernel",),
    "bins": ("num_bins",),
    "n_bins": ("bins", "num_bins"),
    "nb_bins": ("bins", "num_bins"),
    "num_bins": ("bins",),
    "sigma": ("sigma_ratio",),
    "sigma_ratio": ("sigma",),
    "normalize": ("normalized",),
}
_OF_LOSSES = "a loss of plasticine.nn may have it"
#: Arguments that are nothing here, and why.
WITHOUT: dict[str, str] = {
    "align_corners": "fields are in voxels, as with align_corners=True",
    "grid": "it takes a displacement in voxels, which is the grid's coordinates less p itself",
    "reduction": "operators return one value a sample: take its mean() or sum()",
    "loss_mult": "multiply the result",
    "spatial_dims": "the shape of the tensors says how many axes there are",
    "inshape": "it takes tensors of any size",
    "normalize": _OF_LOSSES,
    "smooth_nr": _OF_LOSSES,
    "smooth_dr": _OF_LOSSES,
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
    "rectangular": "box",
    "box": "rectangular",
    "b-spline": "mattes",
    "mattes": "b-spline",
}


def checks_inside(function: _Function) -> _Function:
    """Lets a function be called without tensors it cannot do without: it has MISSING for them.

    Python would refuse such a call by itself, before the function could say what to write for the
    word that stands in a tensor's place. The function passes them to ``_checks.is_tensor``, which
    refuses MISSING. The signature is as it was, and a call takes no longer.
    """
    code, given = function.__code__, function.__defaults__ or ()
    names = code.co_varnames[: code.co_argcount - len(given)]
    tensors = [name for name in names if name != "self"]
    function.__defaults__ = (MISSING,) * len(tensors) + given
    return function


def refuse(function: Callable[..., Any], unknown: Mapping[str, Any]) -> NoReturn:
    """Raises TypeError for arguments that a function has not, with what to write instead.

    Args:
        function: public; or a class, for its constructor; or a module's bound method. It has not
            got them, but takes them to say so here.
        unknown: the arguments.
    """
    name = function.__name__
    if inspect.ismethod(function):
        name = f"{type(function.__self__).__name__}.{name}"
    package = "plasticine.nn" if function.__module__.startswith("plasticine.nn.") else "plasticine"
    known = inspect.signature(function).parameters
    message = f"{package}.{name} has no argument {', '.join(map(repr, unknown))}"
    hints = dict.fromkeys(_hint(word, known) for word in unknown)
    raise TypeError("; ".join([message, *filter(None, hints)]))


def _hint(word: str, known: Collection[str]) -> str:
    ours = next((name for name in ARGUMENTS.get(word, ()) if name in known), None)
    return f"write {ours}= for {word}=" if ours else WITHOUT.get(word, "")


def instead_of(value: Any, allowed: Collection[str]) -> str:
    """What to say of an option's value that is another project's word for one that is allowed."""
    ours = VALUES.get(value) if isinstance(value, str) else None
    return f"; write {ours!r} for {value!r}" if ours in allowed else ""
