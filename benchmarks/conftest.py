"""What every benchmark shares: the options, the measured floor, the JSON's contents."""

from __future__ import annotations

import functools
import gc
import importlib.metadata
import os
import platform
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import pytest
import torch
from torch import Tensor

import plasticine
from benchmarks.contest import (
    Case,
    Contender,
    Contest,
    as_tuple,
    check_gradients,
    check_result,
    cotangent,
)
from benchmarks.device_time import cache_bytes, copied, copies_beyond, event_seconds
from benchmarks.memory import HOW, peak_bytes

# Distribution names of the projects that are measured beside ours, where they are installed.
PEERS = (
    "monai",
    "fireants",
    "hf-deepali",
    "voxelmorph",
    "torch-interpol",
    "SimpleITK",
    "scipy",
    "numpy",
)
FEWEST_ROUNDS, MOST_ROUNDS = 7, 60
# Of what takes more than half a second, and more than three, as some peers do.
ROUNDS_OF_THE_SLOW, ROUNDS_OF_THE_SLOWEST = 3, 1


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("plasticine's benchmarks")
    group.addoption(
        "--device",
        choices=["cpu", "cuda"],
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="device of the benchmarks (default: cuda where there is one)",
    )
    group.addoption(
        "--cases",
        choices=["cpu", "cuda"],
        help="whose sizes (default: the device's; a CPU takes a GPU's only with --tiny)",
    )
    group.addoption("--large", action="store_true", help="also 160 x 192 x 224 on a CPU")
    group.addoption(
        "--seconds",
        type=float,
        default=0.4,
        help="time given to each row, at least 7 calls, or 3 of over half a second (default: 0.4)",
    )
    group.addoption(
        "--tiny",
        action="store_true",
        help="a dozen voxels an axis: that it runs, and computes what it should",
    )
    group.addoption("--no-peers", action="store_true", help="ours alone")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what was not asked for."""
    device = config.getoption("--device")
    sizes_of = config.getoption("--cases") or device
    large = config.getoption("--large")
    kept, left_out = [], []
    seen: set[str] = set()
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        case, contender = parameters.get("case"), parameters.get("contender")
        too_large = case is not None and case.large and not large
        is_peer = contender is not None and not contender.name.startswith("plasticine")
        elsewhere = contender is not None and contender.device not in (None, device)
        other_sizes = case is not None and case.device != sizes_of
        out = too_large or other_sizes or elsewhere or (is_peer and config.getoption("--no-peers"))
        if config.getoption("--tiny") and case is not None and not out:
            # Sizes that differ are alike then: once is enough.
            alike = f"{item.nodeid.partition('[')[0]} {parameters | {'case': str(case.tiny())}}"
            out = alike in seen
            seen.add(alike)
        (left_out if out else kept).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left_out)


def pytest_collection_finish() -> None:
    """Sets aside what lives on: every row collects garbage before its peak memory is measured."""
    gc.freeze()


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
    return f"{processor_name()}, {os.cpu_count()} cores"


def processor_name() -> str:
    """The model of the processor as Linux tells it, or what Python knows."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """Where the benchmarks run: --device."""
    name = request.config.getoption("--device")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(name)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@pytest.fixture(scope="session")
def copy_bandwidth(device: torch.device, request: pytest.FixtureRequest) -> float:
    """Bytes read and written per second by ``Tensor.copy_`` of a buffer that no cache holds."""
    count = (1 << 30) if device.type == "cuda" else (1 << 27)
    if request.config.getoption("--tiny"):
        count = 1 << 16
    source = torch.ones(count // 4, device=device)
    target = torch.empty_like(source)
    if device.type == "cuda":
        target.copy_(source)
        return 2 * count / event_seconds([lambda: target.copy_(source)])
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
    """Seconds of what has run so far, by (operator, case, direction, contender)."""
    return {}


@pytest.fixture
def measure(
    benchmark: Any,
    device: torch.device,
    copy_bandwidth: float,
    medians: dict[tuple[str, ...], float],
    request: pytest.FixtureRequest,
) -> Callable[..., None]:
    """Times a function and records its bandwidth, its share of the floor and its ratios."""

    def run(
        calls: Sequence[Callable[[], Any]], key: tuple[str, ...], case: Case, floor: float
    ) -> None:
        """Measures.

        Args:
            calls: the call, without arguments, on one set of inputs or, on a GPU, on as many as its
                cache does not hold; the first has run before.
            key: operator, case, direction and contender; the earlier entries of this run that
                differ in the contender alone are what it is compared with.
            case: sizes and dtype.
            floor: bytes that must move.
        """
        function = calls[0]

        def call() -> None:
            function()
            synchronise(device)

        if not benchmark.enabled:  # a profiler looks for this range
            with torch.cuda.nvtx.range("measured") if device.type == "cuda" else nullcontext():
                call()
            return
        start = perf_counter()
        call()
        once = perf_counter() - start
        rounds = int(request.config.getoption("--seconds") / max(once, 1e-6))
        slow = ROUNDS_OF_THE_SLOW if once < 3 else ROUNDS_OF_THE_SLOWEST
        fewest = FEWEST_ROUNDS if once < 0.5 else slow
        benchmark.group = " ".join(key[:-1])
        benchmark.pedantic(
            call,
            rounds=min(max(rounds, fewest), MOST_ROUNDS),
            warmup_rounds=0 if once > 0.3 else 3,  # the call above was one
        )
        seconds = benchmark.stats.stats.median
        medians[key] = seconds
        # The floor is the memory's: launches, and what a cache holds, have no part in it.
        moving = event_seconds(calls) if device.type == "cuda" else seconds
        benchmark.extra_info.update(
            operator=key[0],
            case=key[1],
            direction=key[2],
            contender=key[3],
            size=list(case.spatial),
            batch=case.batch,
            dtype=str(case.dtype).removeprefix("torch."),
            displacement=case.displacement,
            floor_bytes=floor,
            gb_per_s=floor / moving / 1e9,
            copy_gb_per_s=copy_bandwidth / 1e9,
            share_of_floor=floor / copy_bandwidth / moving,
            peak_bytes=peak_bytes(function, device),
            peak_bytes_from=HOW[device.type],
        )
        for other, their_seconds in medians.items():
            if other[:-1] == key[:-1] and other != key:
                name = f"times_faster_than_{other[-1]}"
                benchmark.extra_info[name] = their_seconds / seconds
        if device.type == "cuda":
            benchmark.extra_info.update(event_seconds=moving, input_sets=len(calls))

    return run


@pytest.fixture
def run_contest(
    measure: Callable[..., None],
    benchmark: Any,
    device: torch.device,
    request: pytest.FixtureRequest,
) -> Callable[[Contest, Case, str, Contender], None]:
    """Prepares a contender, checks what it computes, and measures it."""

    def run(contest: Contest, case: Case, direction: str, contender: Contender) -> None:
        if request.config.getoption("--tiny"):
            case = case.tiny()
        tensors = [x.to(device, case.dtype) for x in contest.inputs(case)]
        prepared = contender.prepare(case, *tensors)
        inputs = tensors if prepared.inputs is None else prepared.inputs
        result = prepared.call(*inputs)
        facts = check_result(contest, contender, case, prepared.result(result))
        backward = direction == "forward_and_backward"
        given = [cotangent(x) for x in as_tuple(result)] if backward else []
        del result

        def forward(inputs: Sequence[Any], _given: Sequence[Tensor]) -> Any:
            return prepared.call(*inputs)

        def forward_and_backward(
            inputs: Sequence[Any], given: Sequence[Tensor]
        ) -> tuple[Tensor, ...]:
            return torch.autograd.grad(
                as_tuple(prepared.call(*inputs)), inputs, given, allow_unused=True
            )

        if backward:
            for x in inputs:
                x.requires_grad_()
            if prepared.inputs is None:
                check_gradients(contest, contender, case, forward_and_backward(inputs, given))
        sets: list[tuple[Sequence[Any], Sequence[Tensor]]] = [(inputs, given)]
        if device.type == "cuda":
            count = copies_beyond(cache_bytes(device), [*inputs, *given])
            sets += [(copied(inputs), copied(given)) for _ in range(count - 1)]
        timed = forward_and_backward if backward else forward
        if contender.floor is not None:
            floor = contender.floor(case, backward)
        else:
            floor = contest.floor(case.ndim, backward)
        benchmark.extra_info.update(facts)
        measure(
            [functools.partial(timed, *each) for each in sets],
            (contest.operator, str(case), direction, contender.name),
            case,
            floor * case.voxels * case.element_bytes,
        )

    return run
