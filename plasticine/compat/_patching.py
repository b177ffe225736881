"""Puts drop-ins in the place of what they replace, and takes them out again."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from plasticine.compat._signatures import difference, missing

PROJECTS = ("deepali", "fireants", "interpol", "monai", "torch", "transmorph", "voxelmorph")


@dataclass(frozen=True)
class Replacement:
    """What serves in the place of something of another project.

    Attributes:
        name: of the original: "monai.networks.blocks.warp.Warp"; without a dot, of something that
            people copy into modules of their own, which they then name to :func:`patch`.
        ours: the drop-in, of the same signature.
        probe: calls what it is given, an original or ``ours``, and returns a tensor. Where the two
            differ the original is another than the one that ``ours`` replaces: it is left, or,
            where people copy the code and change it, refused.
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


@dataclass(eq=False)
class _Patch:
    """What is replaced by one call: what to put back, and for whom it stays."""

    report: Report
    replaced: list[tuple[str, Any, Any]]
    places: list[tuple[ModuleType, str, Any]]
    copies: Sequence[ModuleType] = ()
    """Modules that may not be loaded by a name."""
    before: set[tuple[ModuleType, str]] = field(default_factory=set)
    """Where drop-ins stood already, imported from this package."""
    modules: dict[str, ModuleType | None] = field(default_factory=dict)
    others: list[Callable[[], None]] = field(default_factory=list)
    kept: bool = False
    """Whether it was asked for outside of a block."""
    blocks: int = 0
    """How many blocks it serves."""

    def undo(self) -> None:
        """Puts it back."""
        for module, attribute, theirs in reversed(self.places):
            setattr(module, attribute, theirs)
        self._take_back()
        for undo in self.others:
            undo()
        for name, before in self.modules.items():
            if before is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = before

    def _take_back(self) -> None:
        """Puts originals where modules imported drop-ins for them since."""
        originals = {id(ours): theirs for _, theirs, ours in reversed(self.replaced)}
        others = [done for patches in _active.values() for done in patches if done is not self]
        spared = {(module, name) for done in others for module, name, _ in done.places}
        spared |= self.before
        for module, name, value in _names(self.copies):
            if id(value) in originals and (module, name) not in spared:
                setattr(module, name, originals[id(value)])


@dataclass(eq=False)
class _Block:
    """A block that is open: whose, and what it holds."""

    project: str
    thread: int
    patches: list[_Patch] = field(default_factory=list)

    def hold(self, done: _Patch) -> None:
        """Keeps a patch until the block ends."""
        if done not in self.patches:
            self.patches.append(done)
            done.blocks += 1


# Of everything below. The one thread may call patch while it imports or probes within patch.
_lock = threading.RLock()
_active: dict[str, list[_Patch]] = {}
_open: list[_Block] = []


def patch(project: str, *modules: ModuleType) -> Report:
    """Serves a project's layers, functions and losses by this package's operators.

    Every attribute of every loaded module that is an original is replaced, so that a name which the
    project, or the caller, imported before is served too. Objects that exist already are not
    changed: call it before models are built. A project that is patched stays as it is. All threads
    are served. Within a block of :func:`patched` of the same thread, it ends with that block.

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
    with _lock:
        if hasattr(drop_ins, "STANDS_FOR"):
            report, patches = _stand_in(project, drop_ins, modules)
        else:
            report, patches = _exchange(project, drop_ins.REPLACEMENTS, modules)
        thread = threading.get_ident()
        within = [block for block in _open if (block.project, block.thread) == (project, thread)]
        for done in patches:
            if within:
                within[-1].hold(done)
            else:
                done.kept = True
    return report


def unpatch(project: str | None = None) -> None:
    """Puts the originals of a project back, or those of all; of one not patched it does nothing.

    Names that modules imported since are put back, too, but not subclasses and objects made since.

    Raises:
        ValueError: there is no such project here.
    """
    if project is not None:
        _known(project)
    with _lock:
        for name in list(_active) if project is None else [project]:
            for done in reversed(_active.get(name, []).copy()):
                _undo(name, done)


@contextmanager
def patched(project: str, *modules: ModuleType) -> Iterator[Report]:
    """:func:`patch` within a block; a project that was patched before it stays so after it.

    Blocks of several threads may overlap: the last one that ends puts the originals back.
    """
    block = _Block(project, threading.get_ident())
    with _lock:
        _open.append(block)
        try:
            report = patch(project, *modules)
        except BaseException:
            _close(block)
            raise
    try:
        yield report
    finally:
        with _lock:
            _close(block)


def original(name: str) -> Any:
    """What a name of another project means when it is not patched; None where there is none.

    What a drop-in cannot serve it hands over to this. A name without a dot is that of a copy that
    was patched.
    """
    with _lock:
        found = _found(name, ())
        for patches in _active.values():
            for done in patches:
                for where, theirs, ours in done.replaced:
                    is_copy = "." not in name and where.endswith(f".{name}")
                    if is_copy or (found and found[0][1] is ours):
                        return theirs
        return found[0][1] if found else None


def original_of(ours: Any) -> Any:
    """What a drop-in stands in for while its project is patched; else None."""
    with _lock:
        for patches in _active.values():
            for done in patches:
                for _, theirs, replacement in done.replaced:
                    if replacement is ours:
                        return theirs
    return None


def _known(project: str) -> None:
    if project not in PROJECTS:
        raise ValueError(f"project must be one of {', '.join(PROJECTS)}; got {project!r}")


def _undo(project: str, done: _Patch) -> None:
    """Puts back what a patch replaced, unless that was done already."""
    if done not in _active.get(project, []):
        return
    _active[project].remove(done)
    if not _active[project]:
        del _active[project]
    done.undo()


def _close(block: _Block) -> None:
    """Ends a block, and the patches that serve no other."""
    _open.remove(block)
    for done in reversed(block.patches):
        done.blocks -= 1
        if not done.blocks and not done.kept:
            _undo(block.project, done)


def _exchange(
    project: str, replacements: Sequence[Replacement], modules: Sequence[ModuleType]
) -> tuple[Report, list[_Patch]]:
    """Puts drop-ins where a project's originals are; with the patches that do so."""
    is_copied = all("." not in replacement.name for replacement in replacements)
    if is_copied != bool(modules):
        wants = "needs the modules that hold its layers" if is_copied else "takes no modules"
        raise ValueError(f"patch({project!r}) {wants}")
    active = _active.get(project, [])
    if active and not is_copied:
        return active[-1].report, active
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
            if ours is not None:
                chosen.append((where, theirs, ours))
            left += [(where, note)] if note else []
    if not chosen:
        raise RuntimeError(f"{label} has nothing of what plasticine.compat.{project} replaces")
    replaced = tuple((where, f"{ours.__module__}.{ours.__qualname__}") for where, _, ours in chosen)
    report = Report(project, version, replaced, tuple(left))
    # What was patched before, by other calls, is ours already.
    ours_already = [ours for _, theirs, ours in chosen if theirs is ours]
    earlier = [done for done in active if any(ours in ours_already for _, _, ours in done.replaced)]
    chosen = [each for each in chosen if each[1] is not each[2]]
    if not chosen:
        return report, earlier
    done = _Patch(report, chosen, [], modules)
    served = {id(theirs): ours for _, theirs, ours in reversed(chosen)}
    drop_ins = {id(ours) for ours in served.values()}
    for module, name, value in _names(modules):
        if id(value) in drop_ins:
            done.before.add((module, name))
        elif id(value) in served:
            done.places.append((module, name, value))
    for module, name, theirs in done.places:
        setattr(module, name, served[id(theirs)])
    _active.setdefault(project, []).append(done)
    return report, [*earlier, done]


def _stand_in(
    project: str, ours: ModuleType, modules: Sequence[ModuleType]
) -> tuple[Report, list[_Patch]]:
    """Puts a whole module of ours where a project looks for one of its own."""
    if modules:
        raise ValueError(f"patch({project!r}) takes no modules")
    if project in _active:
        return _active[project][-1].report, _active[project]
    version = importlib.metadata.version(project)
    label = f"{project} {version}"
    if loaded := sorted(name for name in sys.modules if name.startswith(f"{project}.")):
        raise RuntimeError(
            f"{label}: {loaded[0]} was imported already, and looked for {ours.STANDS_FOR} then: "
            f"call patch({project!r}) before anything imports {project}"
        )
    if problem := missing(project, ours):
        raise RuntimeError(f"{label} is another than plasticine serves: {problem}")
    report = Report(project, version, ((ours.STANDS_FOR, ours.__name__),), ours.LEFT)
    before = sys.modules.get(ours.STANDS_FOR)
    sys.modules[ours.STANDS_FOR] = ours
    done = _Patch(report, [], [], modules={ours.STANDS_FOR: before})
    try:
        done.others.append(ours.serve_every_device())
    except BaseException:
        done.undo()
        raise
    _active[project] = [done]
    return report, [done]


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
) -> tuple[Callable[..., Any] | None, str]:
    """The drop-in for an original, with what is to be said about it.

    None where that of a project computes other numbers; else raises if none fits.
    """
    reasons = []
    for candidate in candidates:
        reason = difference(theirs, candidate.ours)
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
                if "." in candidate.name:
                    return None, f"{reason} than ours"
        if reason is None:
            return candidate.ours, ""
        reasons.append(reason)
    raise RuntimeError(
        f"{label}: {where} is another than the one that plasticine serves: "
        f"{'; '.join(dict.fromkeys(reasons))}. Nothing was replaced."
    )


def _names(modules: Sequence[ModuleType]) -> Iterator[tuple[ModuleType, str, Any]]:
    """All names of the modules that are loaded, but of this package, and of those given."""
    loaded = [
        module
        for name, module in list(sys.modules.items())
        if isinstance(module, ModuleType) and name.split(".")[0] != "plasticine"
    ]
    for module in [*loaded, *modules]:
        for attribute, value in list(vars(module).items()):
            yield module, attribute, value
