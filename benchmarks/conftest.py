"""What every benchmark shares: the device, the measured floor, the peers, the JSON's contents."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

import pytest
import torch

import plasticine

# Distribution names of the projects that are measured beside ours, where they are installed.
PEERS = ("monai", "hf-deepali", "voxelmorph", "torch-interpol", "SimpleITK")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        choices=["cpu", "cuda"],
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="device of the benchmarks (default: cuda where there is one)",
    )


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    """Everything that a figure depends on, and nothing that names the machine."""
    for name in ("node", "release"):
        machine_info.pop(name, None)
    machine_info["device"] = device_name(config.getoption("--device"))
    machine_info["note"] = os.environ.get("PLASTICINE_BENCH_NOTE", "")
    machine_info["load_average"] = os.getloadavg() if hasattr(os, "getloadavg") else None
    machine_info["threads"] = torch.get_num_threads()
    machine_info["versions"] = {
        name: version_of(name) for name in ("plasticine", "torch", "triton", *PEERS)
    }
    machine_info["versions"]["cuda"] = torch.version.cuda
    machine_info["plasticine"] = {
        "backends": plasticine.backends.available(),
        "simd": plasticine.info()["simd"],
    }


def version_of(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """Where the benchmarks run: --device."""
    name = request.config.getoption("--device")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(name)


@pytest.fixture(scope="session")
def peer() -> Callable[[str], Any]:
    """Imports a module of a peer, or skips with the reason why it is absent."""

    def load(module: str) -> Any:
        try:
            return importlib.import_module(module)
        except ImportError as error:
            pytest.skip(f"{module.split('.')[0]} is absent: {error}")

    return load


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@pytest.fixture(scope="session")
def copy_bandwidth(device: torch.device) -> float:
    """Bytes read and written per second by ``Tensor.copy_`` of a buffer that no cache holds."""
    count = (1 << 30) if device.type == "cuda" else (1 << 26)
    source = torch.ones(count // 4, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(12):
        synchronise(device)
        start = perf_counter()
        target.copy_(source)
        synchronise(device)
        seconds.append(perf_counter() - start)
    return 2 * count / median(seconds[2:])


@pytest.fixture(scope="session")
def medians() -> dict[tuple[str, ...], float]:
    """Seconds of what has run so far, by (case, pass, contender): ratios are within one run."""
    return {}


@pytest.fixture
def measure(
    benchmark: Any,
    device: torch.device,
    copy_bandwidth: float,
    medians: dict[tuple[str, ...], float],
) -> Callable[..., None]:
    """Times a function and records its bandwidth, its share of the floor and its ratios."""

    def run(
        function: Callable[[], Any],
        *,
        key: tuple[str, ...],
        floor_bytes: int,
        rounds: int,
    ) -> None:
        """Measures.

        Args:
            function: the call, without arguments.
            key: what is done, then who does it; the earlier entries of the same run with the same
                beginning are the peers.
            floor_bytes: each input read once and each output written once.
            rounds: how many calls to time.
        """

        def call() -> None:
            function()
            synchronise(device)

        benchmark.group = " ".join(key[:-1])
        benchmark.pedantic(call, rounds=rounds, iterations=1, warmup_rounds=2)
        if benchmark.stats is None:  # --benchmark-disable
            return
        seconds = benchmark.stats.stats.median
        medians[key] = seconds
        information = benchmark.extra_info
        information["contender"] = key[-1]
        information["floor_bytes"] = floor_bytes
        information["gb_per_s"] = floor_bytes / seconds / 1e9
        information["copy_gb_per_s"] = copy_bandwidth / 1e9
        information["share_of_floor"] = floor_bytes / copy_bandwidth / seconds
        for other, their_seconds in medians.items():
            if other[:-1] == key[:-1] and other != key:
                information[f"times_faster_than_{other[-1]}"] = their_seconds / seconds
        if device.type == "cuda":
            information["event_seconds"] = event_seconds(function)
            information["peak_bytes"] = peak_bytes(function)

    return run


def event_seconds(function: Callable[[], Any], launches: int = 20) -> float:
    """Seconds per call on the device alone, by CUDA events around several calls in a row."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(launches):
        function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / launches / 1e3


def peak_bytes(function: Callable[[], Any]) -> int:
    """Device memory that one call takes at most, beyond what was there before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = function()
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before
