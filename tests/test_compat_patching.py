"""``plasticine.compat.patch`` on a project made up here."""

from __future__ import annotations

import sys
import threading
from types import ModuleType, SimpleNamespace

import pytest
import torch

from plasticine.compat import Replacement, _patching, original, patch, patched, unpatch


class Layer(torch.nn.Module):
    def __init__(self, steps=7, *, mode="linear"):
        super().__init__()

    def forward(self, x):
        return x


class Theirs:
    """Not names of this module, where they would be replaced, too."""

    class TheirLayer(torch.nn.Module):
        def __init__(self, steps: int = 7, *, mode: str = "linear") -> None:
            super().__init__()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    @staticmethod
    def their_double(x, factor=2):
        return x * factor

    @staticmethod
    def their_triple(x, factor=2):
        return x * (factor + 1)


def double(x, factor=2):
    return x * factor


def triple(x, factor=2):
    return x * (factor + 1)


def probe(function):
    return function(torch.ones(2))


@pytest.fixture
def toy(monkeypatch):
    """A project of two modules, one of which imports from the other; and a caller of it."""
    modules = {name: ModuleType(name) for name in ("toy", "toy.layers", "caller")}
    modules["toy"].__version__ = "2.1"
    modules["toy.layers"].Layer = Theirs.TheirLayer
    modules["toy.layers"].double = Theirs.their_double
    modules["toy"].Layer = Theirs.TheirLayer
    modules["caller"].Renamed = Theirs.TheirLayer
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    ours = (Replacement("toy.layers.Layer", Layer), Replacement("toy.layers.double", double))
    serve(monkeypatch, *ours)
    yield SimpleNamespace(
        top=modules["toy"], layers=modules["toy.layers"], caller=modules["caller"]
    )
    unpatch()


def serve(monkeypatch, *replacements):
    compat = ModuleType("plasticine.compat.toy")
    compat.REPLACEMENTS = replacements
    monkeypatch.setitem(sys.modules, compat.__name__, compat)
    monkeypatch.setattr(_patching, "PROJECTS", (*_patching.PROJECTS, "toy"))


def test_every_name_of_an_original_is_replaced_and_put_back(toy):
    report = patch("toy")
    assert toy.top.Layer is toy.layers.Layer is toy.caller.Renamed is Layer
    assert toy.layers.double is double
    assert [name for name, _ in report.replaced] == ["toy.layers.Layer", "toy.layers.double"]
    assert report.left == ()
    assert "toy 2.1: 2 replaced" in str(report)
    assert f"toy.layers.double -> {__name__}.double" in str(report)
    assert original("toy.layers.double").__name__ == "their_double"
    assert patch("toy") is report
    unpatch("toy")
    assert toy.top.Layer.__name__ == toy.caller.Renamed.__name__ == "TheirLayer"
    assert toy.layers.double.__name__ == "their_double"
    assert original("toy.layers.double").__name__ == "their_double"
    unpatch("toy")
    unpatch()


def test_a_block_leaves_things_as_they_were(toy):
    with patched("toy"):
        assert toy.layers.Layer is Layer
    assert toy.layers.Layer.__name__ == "TheirLayer"
    patch("toy")
    with pytest.raises(KeyError), patched("toy"):
        raise KeyError
    assert toy.layers.Layer is Layer


def test_a_name_that_a_version_does_not_have_is_left(toy, monkeypatch):
    serve(
        monkeypatch,
        Replacement("toy.layers.double", double),
        Replacement("toy.layers.halve", double),
        Replacement("toy.newer.double", double),
    )
    report = patch("toy")
    assert [name for name, _ in report.left] == ["toy.layers.halve", "toy.newer.double"]
    assert "toy.newer.double: not in this version" in str(report)
    serve(monkeypatch, Replacement("toy.newer.double", double))
    unpatch()
    with pytest.raises(RuntimeError, match=r"toy 2\.1 has nothing"):
        patch("toy")


def test_another_signature_is_refused_and_nothing_replaced(toy):
    def newer(x, scale=2):
        return x * scale

    toy.layers.double = newer
    with pytest.raises(RuntimeError) as error:
        patch("toy")
    for part in ("toy 2.1", "toy.layers.double", "(x, factor=2)", "(x, scale=2)", "Nothing was"):
        assert part in str(error.value)
    assert toy.layers.Layer.__name__ == "TheirLayer"
    toy.layers.double = lambda x, factor=3: x
    with pytest.raises(RuntimeError, match=r"factor=3"):
        patch("toy")


def test_another_signature_of_forward_is_refused(toy):
    class Newer(Theirs.TheirLayer):
        def forward(self, x, y):
            return x + y

    toy.layers.Layer = Newer
    with pytest.raises(RuntimeError, match=r"expected \.forward\(self, x\), got \(self, x, y\)"):
        patch("toy")


def test_code_that_people_copied_is_looked_for_in_the_modules_given(toy, monkeypatch):
    serve(monkeypatch, Replacement("double", double, probe))
    copy = ModuleType("copy_of_it")
    copy.double = Theirs.their_double
    with pytest.raises(ValueError, match="needs the modules"):
        patch("toy")
    with pytest.raises(RuntimeError, match="has nothing"):
        patch("toy", toy.top)
    with patched("toy", copy, toy.layers) as report:
        assert copy.double is double
        assert len(report.replaced) == 1
    assert copy.double.__name__ == "their_double"
    copy.double = Theirs.their_triple
    with pytest.raises(RuntimeError, match="computes other numbers"):
        patch("toy", copy)
    serve(monkeypatch, Replacement("double", double, probe), Replacement("double", triple, probe))
    report = patch("toy", copy)
    assert copy.double is triple
    patch("toy", toy.layers)
    assert toy.layers.double is double
    unpatch("toy")
    assert copy.double.__name__ == "their_triple"


def test_a_copy_that_does_not_run_here_is_replaced_and_named(toy, monkeypatch):
    def needs_a_gpu(x, factor=2):
        raise RuntimeError("no GPU")

    serve(monkeypatch, Replacement("double", double, probe))
    copy = ModuleType("copy_of_it")
    copy.double = needs_a_gpu
    report = patch("toy", copy)
    assert copy.double is double
    assert "no GPU" in str(report)


def test_what_is_not_there_is_named(toy, monkeypatch):
    with pytest.raises(ValueError, match="monai"):
        patch("monay")
    with pytest.raises(ValueError, match="monai"):
        unpatch("monay")
    with pytest.raises(ValueError, match="takes no modules"):
        patch("toy", toy.top)
    serve(monkeypatch, Replacement("no_such_project.layers.double", double))
    with pytest.raises(ModuleNotFoundError, match="no_such_project is not installed"):
        patch("toy")
    assert original("no_such_project.layers.double") is None


def overlapping(toy, second):
    """A block that ends in another thread while ``second``, which began within it, goes on."""
    inside, outside = threading.Event(), threading.Event()

    def first():
        with patched("toy"):
            inside.set()
            assert outside.wait(60)

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(60)

    def end_of_first():
        outside.set()
        thread.join(60)

    second(end_of_first)


def test_the_last_of_several_threads_puts_the_originals_back(toy):
    def block(end_of_first):
        with patched("toy"):
            end_of_first()
            assert toy.layers.Layer is Layer

    overlapping(toy, block)
    assert toy.layers.Layer is Theirs.TheirLayer


def test_a_patch_outside_of_a_block_outlives_that_of_another_thread(toy):
    def call(end_of_first):
        patch("toy")
        end_of_first()
        assert toy.layers.Layer is Layer

    overlapping(toy, call)
    unpatch("toy")
    assert toy.layers.Layer is Theirs.TheirLayer


def test_a_refusal_within_another_threads_block_leaves_that(toy, monkeypatch):
    def refused(end_of_first):
        with pytest.raises(ValueError, match="takes no modules"), patched("toy", toy.top):
            pass
        assert toy.layers.Layer is Layer
        end_of_first()

    overlapping(toy, refused)
    assert toy.layers.Layer is Theirs.TheirLayer
    assert not _patching._open


def test_blocks_within_blocks(toy):
    with patched("toy") as report:
        with patched("toy") as inner:
            assert inner is patch("toy") is report
        assert toy.layers.Layer is Layer
        unpatch("toy")
        assert toy.layers.Layer is Theirs.TheirLayer
        patch("toy")
        assert toy.layers.Layer is Layer
    assert toy.layers.Layer is Theirs.TheirLayer

    @patched("toy")
    def layer():
        return toy.layers.Layer

    assert layer() is layer() is Layer
    assert toy.layers.Layer is Theirs.TheirLayer


def test_copies_that_are_patched_twice_stay_until_the_last_block(toy, monkeypatch):
    serve(monkeypatch, Replacement("double", double, probe))
    one, other = ModuleType("one_copy"), ModuleType("other_copy")
    one.double, other.double = Theirs.their_double, Theirs.their_triple
    blocks = patched("toy", one), patched("toy", one, toy.layers)
    blocks[0].__enter__()
    report = blocks[1].__enter__()
    assert [name for name, _ in report.replaced] == ["one_copy.double"]
    assert original("double") is Theirs.their_double
    blocks[0].__exit__(None, None, None)
    assert one.double is toy.layers.double is double
    blocks[1].__exit__(None, None, None)
    assert one.double is toy.layers.double is Theirs.their_double


def test_what_a_module_imported_since_is_put_back(toy, monkeypatch):
    """But for what came from this package on purpose, before."""
    toy.caller.on_purpose = Layer
    later = ModuleType("later")
    with patched("toy"):
        later.Layer, later.times_two = toy.layers.Layer, toy.layers.double
        monkeypatch.setitem(sys.modules, "later", later)
        monkeypatch.setitem(sys.modules, "plasticine.later", ModuleType("plasticine.later"))
        sys.modules["plasticine.later"].Layer = Layer
    assert later.Layer is toy.caller.Renamed is Theirs.TheirLayer
    assert later.times_two is Theirs.their_double
    assert toy.caller.on_purpose is sys.modules["plasticine.later"].Layer is Layer


def test_copies_that_share_a_drop_in_are_put_back_each_by_itself(toy, monkeypatch):
    def another(x, factor=2):
        return x * factor

    serve(monkeypatch, Replacement("double", double, probe))
    one, other, later = (ModuleType(name) for name in ("one_copy", "other_copy", "later"))
    one.double, other.double = Theirs.their_double, another
    with patched("toy", one):
        with patched("toy", other):
            later.double = other.double
            monkeypatch.setitem(sys.modules, "later", later)
        assert (one.double, other.double, later.double) == (double, another, another)
    assert one.double is Theirs.their_double


def test_an_original_of_other_numbers_is_left(toy, monkeypatch):
    layer = Replacement("toy.layers.Layer", Layer)
    serve(monkeypatch, layer, Replacement("toy.layers.double", triple, probe))
    report = patch("toy")
    assert [name for name, _ in report.replaced] == ["toy.layers.Layer"]
    assert report.left == (("toy.layers.double", "it computes other numbers than ours"),)
    assert toy.layers.double is Theirs.their_double
