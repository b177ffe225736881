"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import kernel_backends
import numpy as np
import pytest
import torch
from command_line import Process, Run, ran
from selection import share, thinned
from torch import Tensor

import plasticine.backends

# Of about a minute and more: one of them begun last would leave the other workers idle.
LONG = (
    *("test_benchmarks", "test_packaging", "test_signals", "test_kernels_triton"),
    *("test_structure_training", "test_processes", "test_cli", "test_cuda_build"),
)


@dataclass(frozen=True)
class Served:
    """A backend under test and the device that its tensors live on."""

    backend: str
    device: str

    def __str__(self) -> str:
        return f"{self.backend}_on_{self.device}"

    @property
    def slow(self) -> bool:
        """Whether a GPU's backend runs on the CPU: Triton interpreted, or CUDA emulated."""
        return self.device == "cpu" and self.backend in ("triton", "cuda")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Searches for minutes, and how a machine that lends its GPU for minutes runs the tests."""
    group = parser.getgroup("plasticine's tests")
    group.addoption(
        "--most-on-gpu",
        type=int,
        metavar="N",
        help="of each test and backend on a GPU, about N cases, with every value of every "
        "parameter among them: a Triton kernel is compiled for nearly each (default: all)",
    )
    group.addoption(
        "--share",
        type=share,
        metavar="K/N",
        help="the K-th of N shares of the tests, for N processes beside each other",
    )
    group.addoption(
        "--thorough",
        action="store_true",
        help="try 2000 examples, others every time, in each test of a property or a damaged file",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Chooses how long Hypothesis searches, and which share of the cores a worker takes.

    Without its option nothing imports Hypothesis here.
    """
    if config.getoption("--thorough"):
        import search_profiles

        search_profiles.search_thoroughly()
    # Threads that wait for one another spin, and keep the other workers' from their cores.
    if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
        threads = max(1, torch.get_num_threads() // int(workers))
        torch.set_num_threads(threads)
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # of the processes that tests start
    # Modules go to the workers in the order of the tests, not by how many of them each has.
    config.option.loadscopereorder = False


@pytest.hookimpl(trylast=True)  # of what -k has left
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what ``--most-on-gpu`` and ``--share`` do, and puts long modules first."""
    before = list(items)
    if (most := config.getoption("--most-on-gpu")) is not None:
        items[:] = thinned(items, most)
    if (wanted := config.getoption("--share")) is not None:
        part, parts = wanted
        items[:] = items[part - 1 :: parts]
    items.sort(key=lambda item: item.path.stem not in LONG)
    kept = set(items)
    config.hook.pytest_deselected(items=[item for item in before if item not in kept])


def pytest_report_header() -> list[str]:
    """Says which backends are under test, and why one is not."""
    return [
        f"plasticine backend {name}: {'available' if reason is None else reason}"
        for name, reason in plasticine.backends.available().items()
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives the fixture ``served`` every backend."""
    if "served" not in metafunc.fixturenames:
        return
    candidates = [Served("cpu", "cpu"), Served("reference", "cpu")]
    if torch.cuda.is_available():
        candidates += [Served(name, "cuda") for name in ("cuda", "triton", "reference")]
    if kernel_backends.NAMED is not None:
        name = "triton" if kernel_backends.NAMED == "triton" else "cuda"
        candidates = [Served(name, "cpu")]
    metafunc.parametrize("served", candidates, ids=str, indirect=True)


@pytest.fixture
def served(request: pytest.FixtureRequest) -> Served:
    """A backend, and the device that it serves; skips with the reason where it is missing."""
    served: Served = request.param
    if served.slow:
        request.getfixturevalue("kernel_backend")
    operator = getattr(request.module, "OPERATOR", None)
    operator = operator or request.getfixturevalue("operator").name
    reason = plasticine.backends.unsuited(served.backend, operator, served.device)
    if reason is not None:
        pytest.skip(reason)
    return served


@pytest.fixture(scope="session")
def kernel_backend() -> str:
    """The backend under test that PLASTICINE_KERNELS names, on the CPU: see kernel_backends.py."""
    if kernel_backends.NAMED in ("cpu", "reference"):
        return kernel_backends.NAMED
    return kernel_backends.start(os.environ["PLASTICINE_KERNELS"])


@pytest.fixture
def overflow_checked() -> Iterator[None]:
    """Triton's interpreter raises where a sum or a product of 32-bit integers overflows."""
    if kernel_backends.NAMED == "triton":
        kernel_backends.check_overflow(True)
    yield
    if kernel_backends.NAMED == "triton":
        kernel_backends.check_overflow(False)


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Deterministic algorithms, which also fill what torch.empty returns with NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def native() -> None:
    """Skips a test of the compiled CPU backend where it is missing, or another is under test."""
    if kernel_backends.NAMED not in (None, "cpu"):
        pytest.skip("a process of another backend")
    if plasticine.backends.NATIVE is None:
        pytest.skip(str(plasticine.backends.NATIVE_ERROR))


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded source of random numbers."""
    return torch.Generator().manual_seed(20261122)


@pytest.fixture
def warp_inputs(generator: torch.Generator) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """A maker of what ``warp`` takes, in float64.

    It takes the image's and the result's spatial size, and gives an image, a displacement that
    reaches well outside of it, and an affine near the identity.
    """

    def make(
        sizes: tuple[tuple[int, ...], tuple[int, ...]],
        *,
        batch: int = 2,
        channels: int = 3,
    ) -> tuple[Tensor, Tensor, Tensor]:
        def randn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        image_size, size = sizes
        ndim = len(size)
        image = randn(batch, channels, *image_size)
        displacement = randn(batch, ndim, *size) * 2.5
        affine = torch.eye(ndim, ndim + 1, dtype=torch.float64) + randn(batch, ndim, ndim + 1) * 0.2
        return image, displacement, affine

    return make


@pytest.fixture(scope="session")
def data_location() -> Path:
    """Where real test data is: PLASTICINE_DATA, or ../shared/data from the project's root."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("PLASTICINE_DATA", default))


@pytest.fixture(scope="session")
def data_folder(data_location: Path) -> Path:
    """The folder of real test data; skips where there is none."""
    if not data_location.is_dir():
        pytest.skip(f"no test data in {data_location}; set PLASTICINE_DATA to its folder")
    return data_location


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small untrained 2D model with a brain's card, whose deformation is not the identity."""
    from small_models import NORMALISATION, deforming

    from plasticine.translation import save_model

    card = {"name": "small", "ndim": 2, "spacing_mm": 2.0, "orientation": "SPR"}
    card["normalisation"] = NORMALISATION
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    save_model(path, deforming(), card)
    return path


@pytest.fixture
def process() -> Process:
    """Runs ``python -m plasticine`` in a folder of its own, as a user would."""

    def call(
        *arguments: str | Path, folder: Path, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        return ran(
            *(sys.executable, "-m", "plasticine", *arguments),
            folder=folder,
            without="PLASTICINE_DATA",
            **{"OMP_NUM_THREADS": "1", "COLUMNS": "120", **variables},
        )

    return call


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in this process: exit code, stdout, stderr."""
    from plasticine import cli

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["plasticine", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        return int(exit_.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def head(tmp_path: Path) -> Path:
    """A small NIfTI of three axial slices, integers, at the model's spacing."""
    import nibabel

    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in (24, 28, 3)), indexing="ij")
    image = 200 * np.clip(1.2 - np.sqrt(axes[0] ** 2 + axes[1] ** 2 + 0.2 * axes[2] ** 2), 0, 1)
    path = tmp_path / "head.nii.gz"
    nibabel.save(nibabel.Nifti1Image(image.astype(np.uint8), np.diag([2.0, 2, 4, 1])), path)
    return path
