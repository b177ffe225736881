"""Puts drop-ins in the place of what they replace, and takes them out again."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

PROJECTS = ("deepali", "fireants", "interpol", "monai", "torch", "transmorph", "voxelmorph")

# What a caller of an object of theirs calls by name.
_METHODS = ("forward", "loss")


@dataclass(frozen=True)
class Replacement:
    """What serves in the place of something of another project.

    Attributes:
        name: of the original: "monai.networks.blocks.warp.Warp"; without a dot, of something that
            people copy into modules of their own, which they then name to :func:`patch`.
        ours: the drop-in, of the same signature.
        probe: calls what it is given, an original or ``ours``, and returns a tensor. Where the two
            differ the original is another than the one that ``ours`` replaces. For code that people
            copy and change.
    """

    name: str
    ours: Callable[..., Any]
    probe: Callable[[Callable[..., Any]], Tensor] | None = None


@dataclass(frozen=True)
class Report:
    """What :func:`patch` did; as a string, for people.

    Attributes:
        project: what was asked for.
        version: of the project that was found.
        replaced: the names of originals, each with that of what now serves it.
        left: names that stay as they were, or were not compared with ours, each with the reason.
    """

    project: str
    version: str
    replaced: tuple[tuple[str, str], ...]
    left: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        """One line a name."""
        label = f"{self.project} {self.version}".strip()
        lines = [f"{label}: {len(self.replaced)} replaced"]
        lines += [f"  {name} -> {ours}" for name, ours in self.replaced]
        lines += [f"  {name}: {why}" for name, why in self.left]
        return "\n".join(lines)


@dataclass
class _Patch:
    """A project that is patched: what to put back."""

    report: Report
    replaced: list[tuple[str, Any, Any]]
    places: list[tuple[ModuleType, str, Any]]
    modules: dict[str, ModuleType | None] = field(default_factory=dict)
    others: list[Callable[[], None]] = field(default_factory=list)

    def undo(self) -> None:
        """Puts it back."""
        for module, attribute, theirs in reversed(self.places):
            setattr(module, attribute, theirs)
        for undo in self.others:
            undo()
        for name, before in self.modules.items():
            if before is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = before


_active: dict[str, list[_Patch]] = {}


def patch(project: str, *modules: ModuleType) -> Report:
    """Serves a project's layers, functions and losses by this package's operators.

    Every attribute of every loaded module that is an original is replaced, so that a name which the
    project, or the caller, imported before is served too. Objects that exist already are not
    changed: call it before models are built. A project that is patched stays as it is.

    Args:
        project: one of ``plasticine.compat``: "monai", "voxelmorph", ...
        modules: where to look for what people copy into code of their own: for "transmorph", the
            modules that hold its layers and losses. These may be given in several calls.

    Returns:
        What was replaced, and what was left.

    Raises:
        ValueError: there is no such project here, or modules are given, or missing, where they
            should not be.
        ModuleNotFoundError: the project is not installed.
        RuntimeError: the project is of a version whose signatures, or a copy whose numbers, are
            others than those that are served here. Nothing is replaced then.
    """
    _known(project)
    drop_ins = importlib.import_module(f"plasticine.compat.{project}")
    if hasattr(drop_ins, "STANDS_FOR"):
        return _stand_in(project, drop_ins, modules)
    replacements: tuple[Replacement, ...] = drop_ins.REPLACEMENTS
    is_copied = all("." not in replacement.name for replacement in replacements)
    if is_copied != bool(modules):
        wants = "needs the modules that hold its layers" if is_copied else "takes no modules"
        raise ValueError(f"patch({project!r}) {wants}")
    if project in _active and not is_copied:
        return _active[project][-1].report
    version = "" if is_copied else _version_of(replacements[0].name.split(".")[0])
    label = f"{project} {version}".strip()
    chosen, left = [], []
    for name in dict.fromkeys(replacement.name for replacement in replacements):
        candidates = [each for each in replacements if each.name == name]
        found = _found(name, modules)
        if not found:
            left.append((name, "not in this version" if version else "not in these modules"))
        for where, theirs in found:
            ours, note = _fitting(label, where, theirs, candidates)
            chosen.append((where, theirs, ours))
            left += [(where, note)] if note else []
    if not chosen:
        raise RuntimeError(f"{label} has nothing of what plasticine.compat.{project} replaces")
    replaced = tuple((where, f"{ours.__module__}.{ours.__qualname__}") for where, _, ours in chosen)
    done = _Patch(Report(project, version, replaced, tuple(left)), chosen, [])
    for _, theirs, ours in chosen:
        done.places += _replace(theirs, ours, modules)
    _active.setdefault(project, []).append(done)
    return done.report


def unpatch(project: str | None = None) -> None:
    """Puts the originals of a project back, or those of all; of one not patched it does nothing.

    Raises:
        ValueError: there is no such project here.
    """
    if project is not None:
        _known(project)
    for name in list(_active) if project is None else [project]:
        for done in reversed(_active.pop(name, [])):
            done.undo()


@contextmanager
def patched(project: str, *modules: ModuleType) -> Iterator[Report]:
    """:func:`patch` within a block; a project that was patched before it stays so after it."""
    before = len(_active.get(project, ()))
    report = patch(project, *modules)
    try:
        yield report
    finally:
        for done in reversed(_active.get(project, [])[before:]):
            done.undo()
            _active[project].remove(done)
        if not _active.get(project, True):
            del _active[project]


def original(name: str) -> Any:
    """What a name of another project means when it is not patched; None where there is none.

    What a drop-in cannot serve it hands over to this. A name without a dot is that of a copy that
    was patched.
    """
    found = _found(name, ())
    for patches in _active.values():
        for done in patches:
            for where, theirs, ours in done.replaced:
                is_copy = "." not in name and where.endswith(f".{name}")
                if is_copy or (found and found[0][1] is ours):
                    return theirs
    return found[0][1] if found else None


def _known(project: str) -> None:
    if project not in PROJECTS:
        raise ValueError(f"project must be one of {', '.join(PROJECTS)}; got {project!r}")


def _stand_in(project: str, ours: ModuleType, modules: Sequence[ModuleType]) -> Report:
    """Puts a whole module of ours where a project looks for one of its own."""
    if modules:
        raise ValueError(f"patch({project!r}) takes no modules")
    if project in _active:
        return _active[project][-1].report
    version = importlib.metadata.version(project)
    label = f"{project} {version}"
    if loaded := sorted(name for name in sys.modules if name.startswith(f"{project}.")):
        raise RuntimeError(
            f"{label}: {loaded[0]} was imported already, and looked for {ours.STANDS_FOR} then: "
            f"call patch({project!r}) before anything imports {project}"
        )
    if problem := _missing(project, ours):
        raise RuntimeError(f"{label} is another than plasticine serves: {problem}")
    report = Report(project, version, ((ours.STANDS_FOR, ours.__name__),), ours.LEFT)
    before = sys.modules.get(ours.STANDS_FOR)
    sys.modules[ours.STANDS_FOR] = ours
    done = _Patch(report, [], [], {ours.STANDS_FOR: before})
    try:
        done.others.append(ours.serve_every_device())
    except BaseException:
        done.undo()
        raise
    _active[project] = [done]
    return report


def _missing(project: str, ours: ModuleType) -> str:
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


def _version_of(root: str) -> str:
    try:
        module = importlib.import_module(root)
    except ModuleNotFoundError as error:
        if error.name != root:
            raise
        raise ModuleNotFoundError(f"{root} is not installed: nothing to patch", name=root) from None
    version = getattr(module, "__version__", None)
    if version is None:
        for distribution in importlib.metadata.packages_distributions().get(root, ()):
            return importlib.metadata.version(distribution)
    return str(version or "of unknown version")


def _found(name: str, modules: Sequence[ModuleType]) -> list[tuple[str, Any]]:
    """Where originals of a name are, and what they are: once each."""
    if "." not in name:
        places = [(f"{module.__name__}.{name}", vars(module).get(name)) for module in modules]
        unique = {id(theirs): (where, theirs) for where, theirs in reversed(places)}
        return [place for place in reversed(unique.values()) if place[1] is not None]
    path, attribute = name.rsplit(".", 1)
    try:
        theirs = getattr(importlib.import_module(path), attribute, None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            raise
        return []
    return [] if theirs is None else [(name, theirs)]


def _fitting(
    label: str, where: str, theirs: Any, candidates: Sequence[Replacement]
) -> tuple[Callable[..., Any], str]:
    """The drop-in for an original, with what is to be said about it; raises if none fits."""
    reasons = []
    for candidate in candidates:
        reason = _difference(theirs, candidate.ours)
        if reason is None and candidate.probe is not None:
            try:
                expected = candidate.probe(theirs)
            except Exception as error:
                return candidate.ours, f"it raises {error!r} here, so was not compared with ours"
            got = candidate.probe(candidate.ours)
            if got.shape != expected.shape or not torch.allclose(
                got.double(), expected.double(), rtol=1e-3, atol=1e-4
            ):
                reason = "it computes other numbers"
        if reason is None:
            return candidate.ours, ""
        reasons.append(reason)
    raise RuntimeError(
        f"{label}: {where} is another than the one that plasticine serves: "
        f"{'; '.join(dict.fromkeys(reasons))}. Nothing was replaced."
    )


def _difference(theirs: Any, ours: Any) -> str | None:
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


def _replace(
    theirs: Any, ours: Any, modules: Sequence[ModuleType]
) -> list[tuple[ModuleType, str, Any]]:
    """Exchanges the one for the other wherever a module, not of this package, names it."""
    places = []
    loaded = [
        module
        for name, module in list(sys.modules.items())
        if isinstance(module, ModuleType) and name.split(".")[0] != "plasticine"
    ]
    for module in [*loaded, *modules]:
        for attribute, value in list(vars(module).items()):
            if value is theirs:
                setattr(module, attribute, ours)
                places.append((module, attribute, theirs))
    return places
