"""The stubs of the compiled modules say what the modules hold."""

import ast
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

import plasticine
from plasticine import backends


def stubs(name: str) -> dict[str, int]:
    """Every function of a .pyi file, with how many arguments it takes."""
    path = Path(inspect.getfile(backends)).with_name(f"{name}.pyi")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {f.name: len(f.args.args) for f in tree.body if isinstance(f, ast.FunctionDef)}


def functions(module: ModuleType) -> dict[str, int]:
    """The same of the module, by the signatures that pybind11 writes into the docstrings."""
    found = {}
    for name, function in vars(module).items():
        if callable(function) and not name.startswith("_"):
            signature = (function.__doc__ or "").splitlines()[0]
            found[name] = len(re.findall(r"\barg\d+: ", signature))
    return found


@pytest.mark.parametrize("name", ["_native", "_cuda"])
def test_the_stub_is_the_modules(name: str) -> None:
    module, reason = {
        "_native": (backends.NATIVE, backends.NATIVE_ERROR),
        "_cuda": (backends.CUDA, backends.CUDA_ERROR),
    }[name]
    if reason is not None:
        pytest.skip(reason)
    assert functions(module) == stubs(name)


def test_what_is_no_tensor_is_refused() -> None:
    if backends.NATIVE_ERROR is not None:
        pytest.skip(backends.NATIVE_ERROR)
    for wrong in ((0, 0, (1,), (1, 1)), (0, 0, (1,)), "tensor", 3):
        with pytest.raises(TypeError, match="incompatible function arguments"):
            backends.NATIVE.exponential_peak(wrong, 1)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        backends.NATIVE.compose_forward(None, None, None, "nowhere", 1)


def test_a_tensor_without_memory_is_never_read() -> None:
    """What sgn gives backwards is a zero without memory; a storage may have been freed."""
    if backends.NATIVE_ERROR is not None:
        pytest.skip(backends.NATIVE_ERROR)
    image = torch.randn(1, 1, 4, 5)
    displacement = torch.randn(1, 2, 4, 5, requires_grad=True)
    plasticine.warp(image, displacement).sgn().sum().backward()
    assert displacement.grad is not None
    assert displacement.grad.count_nonzero() == 0
    zero = torch._efficientzerotensor(image.shape)
    assert plasticine.warp(zero, displacement).count_nonzero() == 0
    freed = image.clone()
    freed.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="has no memory"):
        plasticine.warp(freed, displacement)
