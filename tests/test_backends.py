"""Which backend serves a call, and what is said where none can."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

import plasticine
from plasticine import backends
from plasticine.ops import REGISTRY

PACKAGE = Path(plasticine.__file__).parent


@pytest.fixture(autouse=True)
def _fresh_choices():
    """Choices are remembered; these tests change what they depend on."""
    remembered = (backends.choose, backends.cuda_error, backends.triton_error)
    for function in remembered:
        function.cache_clear()
    yield
    for function in remembered:
        function.cache_clear()


class _Binary:
    """Stands for a compiled module that holds some functions."""

    def __init__(self, *functions: str) -> None:
        for name in functions:
            setattr(self, name, lambda *_: None)


@pytest.fixture
def everything(monkeypatch):
    """All backends there."""
    binary = _Binary("warp_forward", "compose_forward", "folding", "device_error")
    for name in ("NATIVE", "CUDA"):
        monkeypatch.setattr(backends, name, binary)
        monkeypatch.setattr(backends, f"{name}_ERROR", None)
    monkeypatch.setattr(backends, "triton_kernels", lambda operator: (object(), None))
    monkeypatch.setattr(backends, "interpreting", lambda: False)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))


NO_CODE = "cudaFuncGetAttributes: cudaErrorNoKernelImageForDevice (no kernel image is available)"
OLD_DRIVER = "cudaGetDevice: cudaErrorInsufficientDriver (CUDA driver version is insufficient)"


@pytest.fixture
def two_gpus(monkeypatch, everything):
    """An H100 that the build has code for, and a T4 that it has none for; counts the questions."""
    asked = []

    def device_error(index: int) -> str:
        asked.append(index)
        return ("", NO_CODE)[index]

    backends.CUDA.device_error = device_error
    backends.CUDA.build_info = lambda: {"architectures": "80;90;100", "nvcc": "release 13.0"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: ("H100", "T4")[index])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: ((9, 0), (7, 5))[index])
    return asked


def test_a_gpu_that_the_build_has_no_code_for_goes_to_triton(two_gpus):
    for operator in ("warp", "compose"):
        assert backends.choose("auto", operator, "cuda:0") == "cuda"
        assert backends.choose("auto", operator, "cuda:1") == "triton"
    assert sorted(two_gpus) == [0, 1], "each GPU is asked once"
    assert backends.choose("cuda", "warp", "cuda:0") == "cuda"
    with pytest.raises(RuntimeError) as caught:
        backends.choose("cuda", "warp", "cuda:1")
    for part in ("on cuda:1", "T4, sm_75", "sm_80, sm_90, sm_100", "NoKernelImageForDevice"):
        assert part in str(caught.value)
    assert backends.available()["cuda"] is None


def test_a_gpu_that_triton_does_not_compile_for_goes_to_the_reference(two_gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (6, 1))
    backends.CUDA.device_error = lambda index: NO_CODE
    assert backends.choose("auto", "warp", "cuda:1") == "reference"
    reasons = backends.available()
    assert reasons["triton"].count("compute capability 7.0 and later") == 2
    assert reasons["cuda"].count("NoKernelImageForDevice") == 2
    with pytest.raises(RuntimeError, match=r"which cuda:0 .*sm_61.* is not"):
        backends.choose("triton", "warp", "cuda:0")


def test_an_old_driver_is_told_of(two_gpus):
    backends.CUDA.device_error = lambda index: OLD_DRIVER
    assert backends.choose("auto", "warp", "cuda:0") == "triton"
    assert "InsufficientDriver" in backends.available()["cuda"]


def test_info_says_which_gpu_is_not_served(two_gpus, monkeypatch):
    properties = types.SimpleNamespace(name="a GPU", major=9, minor=0, total_memory=2**34)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    backends.NATIVE.simd_level = lambda: "avx2"
    first, second = plasticine.info()["devices"][1:]
    assert "no cuda" not in first
    assert "; no cuda: plasticine._cuda" in second
    assert "NoKernelImageForDevice" in second


@pytest.fixture
def nothing(monkeypatch):
    """All binaries missing, each with its reason."""
    for name in ("NATIVE", "CUDA"):
        monkeypatch.setattr(backends, name, None)
        monkeypatch.setattr(backends, f"{name}_ERROR", f"no {name.lower()}, because")
    monkeypatch.setattr(backends, "triton_kernels", lambda operator: (None, "no triton, because"))


@pytest.mark.parametrize(
    ("operator", "device", "expected"),
    [
        ("warp", "cpu", "cpu"),
        ("warp", "cuda", "cuda"),
        ("warp", "mps", "reference"),
        ("compose", "cpu", "cpu"),
        ("compose", "cuda", "cuda"),
        ("folding", "cpu", "cpu"),
    ],
)
@pytest.mark.usefixtures("everything")
def test_auto_takes_the_fastest(operator, device, expected):
    assert backends.choose("auto", operator, device) == expected


@pytest.mark.usefixtures("everything")
def test_auto_falls_back_to_triton_on_a_gpu(monkeypatch):
    monkeypatch.setattr(backends, "CUDA_ERROR", "no cuda")
    assert backends.choose("auto", "warp", "cuda") == "triton"
    monkeypatch.setattr(backends, "triton_kernels", lambda operator: (None, "no triton"))
    backends.choose.cache_clear()
    assert backends.choose("auto", "warp", "cuda") == "reference"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.usefixtures("nothing")
def test_auto_falls_back_to_the_reference(device):
    assert backends.choose("auto", "warp", device) == "reference"


@pytest.mark.parametrize(
    ("requested", "device", "message"),
    [
        ("cpu", "cpu", "'cpu' cannot serve warp on cpu: no native, because"),
        ("cuda", "cuda", "'cuda' cannot serve warp on cuda: no cuda, because"),
        ("triton", "cuda", "'triton' cannot serve warp on cuda: no triton, because"),
        ("cpu", "cuda", "it takes CPU tensors"),
        ("cuda", "cpu", "it takes CUDA tensors"),
        ("triton", "cpu", "TRITON_INTERPRET=1"),
    ],
)
@pytest.mark.usefixtures("nothing")
def test_a_missing_backend_asked_for_by_name_says_why(requested, device, message):
    with pytest.raises(RuntimeError, match=message):
        backends.choose(requested, "warp", device)


@pytest.mark.usefixtures("everything")
def test_auto_takes_the_reference_where_no_kernel_is(monkeypatch):
    backends.CUDA.__name__ = "plasticine._cuda"  # without an exponential
    monkeypatch.setattr(backends, "triton_kernels", lambda operator: (None, "no such module"))
    assert backends.choose("auto", "exponential", "cuda") == "reference"
    with pytest.raises(RuntimeError, match="cannot serve exponential on cuda: no such module"):
        backends.choose("triton", "exponential", "cuda")


@pytest.mark.usefixtures("everything")
def test_a_binary_older_than_the_source_says_so(monkeypatch):
    binary = _Binary("warp_forward")
    binary.__name__ = "plasticine._native"
    monkeypatch.setattr(backends, "NATIVE", binary)
    assert backends.choose("auto", "warp", "cpu") == "cpu"
    assert backends.choose("auto", "compose", "cpu") == "reference"
    with pytest.raises(RuntimeError, match=r"plasticine\._native is older than this source"):
        backends.choose("cpu", "compose", "cpu")


def test_an_unknown_backend_names_those_that_exist():
    with pytest.raises(
        ValueError, match="one of 'auto', 'cpu', 'cuda', 'triton', 'reference', got"
    ):
        backends.choose("opencl", "warp", "cpu")


@pytest.mark.usefixtures("everything")
def test_triton_serves_the_cpu_only_when_interpreted_and_asked(monkeypatch):
    monkeypatch.setattr(backends, "interpreting", lambda: True)
    assert backends.choose("triton", "warp", "cpu") == "triton"
    assert backends.choose("auto", "warp", "cpu") == "cpu"


@pytest.mark.usefixtures("nothing")
def test_every_operator_works_without_any_binary():
    velocity = torch.rand(1, 2, 6, 7, requires_grad=True)
    u = plasticine.exponential(velocity)
    moved = plasticine.warp(torch.rand(1, 1, 6, 7), plasticine.compose(u, u))
    (moved.sum() + plasticine.jacobian_determinant(u).sum()).backward()
    assert velocity.grad.isfinite().all()
    assert plasticine.folding(u).folds.shape == (1,)


def test_info_is_complete_and_plain():
    info = plasticine.info()
    assert json.loads(json.dumps(info)) == info
    assert info["versions"]["torch"] == torch.__version__
    assert info["versions"]["plasticine"] == plasticine.__version__
    assert info["backends"] == backends.available()
    assert set(info["backends"]) == {"cpu", "cuda", "triton", "reference"}
    assert info["backends"]["reference"] is None
    assert info["threads"] == torch.get_num_threads()
    assert info["devices"]
    if backends.NATIVE is not None:
        assert info["simd"] in ("avx512", "avx2", "baseline")
        assert info["build"]["native"]["version"] == plasticine.__version__
        assert info["backends"]["cpu"] is None
    for name, reason in info["backends"].items():
        assert reason is None or reason.strip(), name


def test_the_version_is_the_distributions():
    try:
        installed = importlib.metadata.version("plasticine")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("plasticine is not installed")
    assert plasticine.__version__ == installed


def _python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        # Not the root: the checkout would hide the installed package there.
        cwd=Path(__file__).parent,
        env={**os.environ, **environment},
    )


def test_without_the_binary_import_works_and_says_why():
    code = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name in ("plasticine._native", "plasticine._cuda"):
            raise ImportError(f"{name}: undefined symbol: made up for this test")

sys.meta_path.insert(0, Blocked())
import torch, plasticine
reasons = plasticine.info()["backends"]
assert "plasticine._native does not load" in reasons["cpu"], reasons
assert "made up for this test" in reasons["cpu"], reasons
image, u = torch.rand(1, 1, 4, 5), torch.zeros(1, 2, 4, 5)
assert torch.equal(plasticine.warp(image, u), image)
try:
    plasticine.warp(image, u, backend="cpu")
except RuntimeError as error:
    assert "made up for this test" in str(error), error
else:
    raise AssertionError("a missing backend served a call")
"""
    result = _python(code)
    assert result.returncode == 0, result.stderr


def test_a_binary_of_another_version_is_not_used():
    code = """
import sys, types

module = types.ModuleType("plasticine._native")
module.build_info = lambda: {"version": "0.0.1"}
sys.modules["plasticine._native"] = module
import plasticine
reason = plasticine.info()["backends"]["cpu"]
assert "built from version 0.0.1" in reason and plasticine.__version__ in reason, reason
"""
    result = _python(code)
    assert result.returncode == 0, result.stderr


def test_a_checkout_in_front_of_the_installed_copy_is_explained(tmp_path):
    """The trap: a source tree without binaries on sys.path hides an install that has them."""
    checkout, installed = tmp_path / "checkout", tmp_path / "site"
    (checkout / "plasticine").mkdir(parents=True)
    (installed / "plasticine").mkdir(parents=True)
    for source in PACKAGE.rglob("*.py"):
        target = checkout / "plasticine" / source.relative_to(PACKAGE)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    (checkout / "setup.py").touch()
    (installed / "plasticine" / "_native.abi3.so").touch()
    code = f"""
import sys, warnings
sys.path[:0] = [{str(checkout)!r}, {str(installed)!r}]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import plasticine
assert plasticine.__file__.startswith({str(checkout)!r}), plasticine.__file__
assert any("source checkout" in str(w.message) for w in caught), [str(w.message) for w in caught]
reason = plasticine.info()["backends"]["cpu"]
assert "hides the copy installed in" in reason and {str(installed)!r} in reason, reason
"""
    # -S: no site-packages, where an editable install would come first; torch is added by hand.
    result = _python(
        code, "-S", PYTHONPATH=os.pathsep.join(p for p in sys.path if "site-packages" in p)
    )
    assert result.returncode == 0, result.stderr


def test_importing_stays_light():
    """The operators do not pull in Triton, the models, or what draws and reads files."""
    code = """
import sys
import torch
before = set(sys.modules)
import plasticine
heavy = {"triton", "matplotlib", "nibabel", "scipy", "rich", "typer", "safetensors"}
loaded = {name.split(".")[0] for name in set(sys.modules) - before} & heavy
assert not loaded, loaded
models = [n for n in sys.modules if n.startswith("plasticine.") and n.split(".")[1] in
          ("nn", "translation", "registration", "diffusion", "training", "kernels")]
assert not models, models
assert plasticine.nn.Warp is not None  # on first use
"""
    result = _python(code)
    assert result.returncode == 0, result.stderr


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'plasticine' has no attribute 'wrap'"):
        plasticine.wrap  # noqa: B018
    assert {"warp", "nn", "Translator"} <= set(dir(plasticine))


def test_auto_follows_its_table(monkeypatch):
    """The order of preference, and of an operator that was measured to be faster the other way."""
    monkeypatch.setattr(backends, "unsuited", lambda backend, operator, device: None)
    monkeypatch.setitem(backends.OVERRIDES, ("splat", "cuda"), ("triton", "cuda"))
    backends.choose.cache_clear()
    try:
        assert backends.choose("auto", "warp", "cuda") == "cuda"
        assert backends.choose("auto", "splat", "cuda") == "triton"
        assert backends.choose("auto", "splat", "cpu") == "cpu"
        assert backends.choose("auto", "splat", "mps") == "reference"
    finally:
        backends.choose.cache_clear()


def test_the_table_names_what_exists():
    orders = [*backends.PREFERENCE.values(), *backends.OVERRIDES.values()]
    assert {name for order in orders for name in order} <= set(backends.BACKENDS)
    assert {operator for operator, _ in backends.OVERRIDES} <= REGISTRY.keys()
