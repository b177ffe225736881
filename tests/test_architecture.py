"""The rules of the house that a reviewer would otherwise have to remember."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from plasticine.backends import KERNELS_OF
from plasticine.ops import REGISTRY

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "plasticine"
CSRC = ROOT / "csrc"
KERNELS = ROOT / "kernels"

# Imports run one way: a module imports from its own layer's own package, and from those below.
LAYERS = (
    ("demo", "cli", "selfcheck", "__main__"),
    ("compat",),
    ("training",),
    ("translation", "io", "transforms", "report", "metrics"),
    ("diffusion", "registration", "structure"),
    ("nn", "conformance"),
    ("ops", "info"),
    ("reference", "kernels"),
    ("backends", "_command_line"),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MOST_LINES = 450

pytestmark = pytest.mark.skipif(
    not (ROOT / "csrc").is_dir(), reason="the tests are not in a source checkout"
)


def python_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Every module of plasticine that a file imports when it is imported, or when it runs."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = ("plasticine", *path.relative_to(PACKAGE).with_suffix("").parts)
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package[: len(package) - node.level]
                base = ".".join([*above, *([base] if base else [])])
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def room(module: str) -> str | None:
    """The room of the house a dotted name is in; None for what is not one of ours or is public."""
    parts = module.split(".")
    return parts[1] if parts[0] == "plasticine" and len(parts) > 1 and parts[1] in LEVEL else None


def test_every_room_has_its_place():
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in python_files()}
    assert rooms - {"__init__"} <= set(LEVEL)


def test_imports_run_one_way():
    wrong = []
    for path in python_files():
        here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if here == "__init__":
            continue
        for line, module in imported(path):
            there = room(module)
            if there is not None and there != here and LEVEL[there] < LEVEL[here]:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_io_report_and_metrics_import_the_translation_for_typing_only():
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for name in ("io", "report", "metrics")
        for path in sorted((PACKAGE / name).rglob("*.py"))
        for line, module in imported(path)
        if room(module) == "translation"
    ]
    assert not wrong, "\n".join(wrong)


def test_the_rule_finds_what_it_forbids(tmp_path, monkeypatch):
    """A rule that no file can break would pass forever."""
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    (tmp_path / "nn").mkdir()
    file = tmp_path / "nn" / "bad.py"
    file.write_text("from plasticine.training import train\nfrom ..translation import Trace\n")
    assert [room(module) for _, module in imported(file)] == ["training", "translation"]
    file.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from plasticine import training\n"
    )
    assert "training" not in [room(module) for _, module in imported(file)]


def test_the_kernels_import_torch_and_triton_only():
    wrong = []
    for path in sorted(KERNELS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            wrong += [
                f"{path.relative_to(ROOT)}:{node.lineno} imports {name}"
                for name in names
                if name.split(".")[0] not in {"torch", "triton", "__future__", *_STANDARD}
            ]
    assert not wrong, "\n".join(wrong)


_STANDARD = frozenset(
    {"collections", "contextlib", "functools", "itertools", "math", "struct", "typing"}
)


def native_files() -> list[Path]:
    suffixes = {".h", ".cuh", ".cpp", ".cu"}
    return sorted(path for path in CSRC.rglob("*") if path.suffix in suffixes)


def test_the_native_core_knows_nothing_of_torch():
    assert native_files()
    include = re.compile(r"^\s*#\s*include\s*[<\"](torch|ATen|c10|caffe2)[/.]", re.MULTILINE)
    assert include.search("#include <torch/extension.h>")
    wrong = [
        str(path.relative_to(ROOT))
        for path in native_files()
        if include.search(path.read_text(encoding="utf-8"))
    ]
    assert not wrong, wrong


def test_no_file_is_too_long():
    files = [*python_files(), *KERNELS.rglob("*.py"), *native_files()]
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    long = {str(p.relative_to(ROOT)): n for p, n in lengths.items() if n > MOST_LINES}
    assert not long, long


def test_no_module_is_named_for_nothing():
    empty = {"utils", "util", "helpers", "helper", "misc", "common"}
    files = [*python_files(), *KERNELS.rglob("*.py")]
    wrong = [str(p) for p in files if {p.stem.strip("_"), p.parent.name} & empty]
    assert not wrong, wrong


def test_an_operator_is_in_every_room():
    """One operator, one name: its contract, its definition, its test."""
    operators = {p.stem for p in (PACKAGE / "ops").glob("*.py") if not p.stem.startswith("_")}
    assert operators == REGISTRY.keys()
    for name in operators:
        assert (PACKAGE / "reference" / f"{name}.py").is_file()
        assert (ROOT / "tests" / f"test_{name}.py").is_file()
        kernels = KERNELS_OF.get(name, name)
        assert (CSRC / kernels).is_dir()
        assert (KERNELS / f"{kernels}.py").is_file()


def test_no_path_of_a_developers_machine_is_left_behind():
    """What is written in the project must make sense to whoever clones it."""
    forbidden = re.compile(r"/work/|/tmp/[a-z]")
    assert forbidden.search("see " + "/wor" + "k/main")
    files = [*python_files(), *KERNELS.rglob("*.py"), *native_files(), *ROOT.glob("*.md")]
    wrong = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if forbidden.search(line)
    ]
    assert not wrong, wrong
