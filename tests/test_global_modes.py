"""No global mode of torch, NumPy or Python changes a result, and none is left changed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from torch import Tensor

import plasticine
from plasticine import gaussian_smooth, metrics, structure
from plasticine.diffusion import sampler
from plasticine.diffusion.schedule import NoiseSchedule
from plasticine.diffusion.slabs import blending_weights
from plasticine.io import read_volume, translate_volume
from plasticine.registration import (
    Level,
    RegistrationObjective,
    Similarity,
    VelocityNetwork,
    VelocityRegistration,
    affine_exponential,
    shape_distance,
    transport_plan,
)
from plasticine.report import write_results
from plasticine.structure.interior import interior_curve
from plasticine.translation import TranslationModel, Translator

QUICK = VelocityRegistration(
    (Level(2, 2, 3.0), Level(1, 2, 3.0)), Similarity("mind", dilations=(1,))
)


@contextlib.contextmanager
def _set(change: Callable[[Any], Any], value: Any, before: Any) -> Iterator[None]:
    change(value)
    try:
        yield
    finally:
        change(before)


@contextlib.contextmanager
def _default_device() -> Iterator[None]:
    """The device "meta" holds no numbers: what is made on it cannot be used."""
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


MODES: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "default dtype float64": lambda: _set(torch.set_default_dtype, torch.float64, torch.float32),
    "default dtype float16": lambda: _set(torch.set_default_dtype, torch.float16, torch.float32),
    "default device": _default_device,
    "deterministic algorithms": lambda: _set(torch.use_deterministic_algorithms, True, False),
    "NumPy raises": lambda: np.errstate(all="raise"),
    "NumPy prints little": lambda: np.printoptions(precision=1, threshold=1),
    "matplotlib's style": lambda: matplotlib.rc_context(
        {"text.usetex": True, "image.origin": "lower", "figure.dpi": 30, "savefig.bbox": "tight"}
    ),
}
# Of what is not a translation or a training, which run in full precision, autocast is the caller's.
AUTOCAST = "autocast"
# So is what becomes of denormal numbers.
WHOLE = {
    **MODES,
    AUTOCAST: lambda: torch.autocast("cpu", torch.bfloat16),
    "denormal numbers are 0": lambda: _set(torch.set_flush_denormal, True, False),
}


@cache
def _images(*size: int, seed: int = 3) -> Tensor:
    """Two smooth images within [0, 1], which no mode has touched."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(2, 1, *size, generator=generator, dtype=torch.float32, device="cpu")
    smooth = gaussian_smooth(drawn, 2.0)
    return (smooth - smooth.amin()) / (smooth.amax() - smooth.amin())


def _translator(model_file: Path) -> Translator:
    return Translator.load(model_file)


def _tensors(trace: Any) -> list[Tensor]:
    names = dict.fromkeys([*vars(trace), "jacobian", "valid"])  # which a trace works out when asked
    return [value for name in names if isinstance(value := getattr(trace, name), Tensor)]


def _translate(model_file: Path, folder: Path) -> list[Tensor]:
    options = {"samples": 3, "solver": "ddpm", "mirror": True, "slab": 16, "overlap": 8}
    return _tensors(_translator(model_file).translate(_images(24, 28), **options))


def _optimise(model_file: Path, folder: Path) -> list[Tensor]:
    image = _images(24, 28)
    trace = _translator(model_file).translate(
        image, reference=1 - image.roll(2, 3), optimise=QUICK, slice_smoothing=1.0, steps=1
    )
    return _tensors(trace)


@cache
def _stack() -> np.ndarray:
    """Intensities of which some are positive only where denormal numbers are none of them 0."""
    stack = np.asarray(np.arange(3 * 24 * 28).reshape(3, 24, 28) % 251, np.float32)
    stack[:, :12] = np.frombuffer(b"\1\0\0\0", "<f4")
    return stack


def _files(model_file: Path, folder: Path) -> list[Tensor]:
    """What a translation of a file leaves: volumes, and the page of pictures."""
    folder.mkdir(exist_ok=True)
    np.save(folder / "stack.npy", _stack())
    result = translate_volume(_translator(model_file), read_volume(folder / "stack.npy"), steps=1)
    write_results(result, folder)
    names = ("translated.nii.gz", "displacement.nii.gz", "trace.png")
    data = [(folder / name).read_bytes() for name in names]
    return [
        *_tensors(result),
        *(torch.from_numpy(np.frombuffer(bytes_, np.uint8).copy()) for bytes_ in data),
    ]


def _build(model_file: Path, folder: Path) -> list[Tensor]:
    """The weights that a training begins with."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        configuration = {
            "ndim": 2,
            "structure": {"name": "back-translation", "interior": 4, "channels": [4, 4]},
            "schedule": {"kind": "linear", "steps": 50},
            "denoiser": {"channels": [8, 8], "blocks": 1},
            "velocity": {"channels": [4, 4]},
            "sampling": {"steps": 1, "guidance": 1.0, "start": 1.0},
        }
        return list(TranslationModel(configuration).state_dict().values())


def _instance(model_file: Path, folder: Path) -> list[Tensor]:
    image = 2 * _images(20, 24) - 1
    return [QUICK(image, -image.roll(1, 2)).velocity]


WHOLE_RESULTS = {
    "translate": _translate,
    "optimise": _optimise,
    "files": _files,
    "build a model": _build,
    "instance optimisation": _instance,
}


def _structures() -> list[Tensor]:
    image = 2 * _images(20, 24) - 1
    names = ("mind", "contour", "kmeans", "multi-otsu")
    return [structure.create(name, 2)(image) for name in names if name in structure.STRUCTURE_MAPS]


def _figures() -> list[Tensor]:
    a, b = _images(20, 24), _images(20, 24, seed=4)
    mask = a > 0.3
    features = [torch.cat([metrics.RandomFeatures()(x) for x in (y, y.sqrt())]) for y in (a, b)]
    field = torch.cat([a, b], 1)
    numbers = [
        metrics.psnr(a, b),
        metrics.ssim(a, b, mask=mask),
        metrics.correlation(a, b),
        metrics.frechet_distance(*features),
        metrics.kernel_distance(*features),
        metrics.end_point_error(field, field.flip(0), spacing=(1, 2)),
        metrics.inverse_consistency_error(field, -field),
        metrics.lesion_contrast(a, a > 0.8),
        *metrics.dice(a > 0.5, b > 0.5).values(),
        *(d.hd95 for d in metrics.surface_distance(a[0, 0] > 0.5, b[0, 0] > 0.5).values()),
    ]
    return [*features, torch.tensor(numbers, dtype=torch.float64, device="cpu")]


def _solvers() -> list[Tensor]:
    schedule = NoiseSchedule("cosine", 50).to("cpu") if _plain_device() else None
    visited = sampler.log_snr_grid(schedule, 50, 6) if schedule is not None else []
    noise = sampler.shared_noise(_images(6, 7), torch.Generator().manual_seed(1))
    weights = blending_weights([(0, 16), (8, 24)])
    return [noise, *weights, *([torch.tensor(visited, device="cpu")] if visited else [])]


def _plain_device() -> bool:
    """A schedule is a module, whose buffers are made on the default device, as torch's are."""
    return torch.get_default_device().type == "cpu"


def _matching() -> list[Tensor]:
    labels = (_images(12, 14) > 0.5).float()
    curve = interior_curve(*[_images(12, 14), 3 * torch.ones_like(labels)] * 2, 2)
    objective = RegistrationObjective(jitter=0.5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        offset = objective.offset(labels)
    assert offset is not None
    distance = shape_distance(labels, labels.flip(0))
    affine = affine_exponential(0.1 * torch.ones_like(labels[:, 0, :2, :3]), (12, 14))
    return [curve, offset, distance, transport_plan(distance + 1, 0.1), *affine]


def _operators() -> list[Tensor]:
    """The definitions, which make tensors of their own."""
    image = _images(9, 11)
    field = torch.cat([image, image.flip(0)], 1)
    found = []
    for backend in ("reference", "auto"):
        folds = plasticine.folding(5 * field, backend=backend)
        found += [
            plasticine.warp(image, field, backend=backend),
            plasticine.warp(image, field, mode="bspline", padding="reflection", backend=backend),
            plasticine.compose(field, field, backend=backend),
            plasticine.exponential(field, backend=backend),
            plasticine.jacobian_determinant(field, backend=backend),
            plasticine.invert(0.1 * field, backend=backend).displacement,
            plasticine.splat(image, field, backend=backend),
            *(folds.folds, folds.sd_log_jacobian, folds.non_diffeomorphic_volume),
        ]
    return found


RESULTS = {
    "structure": _structures,
    "metrics": _figures,
    "solvers": _solvers,
    "matching": _matching,
    "operators": _operators,
}


def _equal(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) <= len(expected)
    for one, other in zip(found, expected, strict=False):
        assert one.dtype == other.dtype
        assert one.device == other.device
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@pytest.fixture(scope="module")
def expected(
    model_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], list[Tensor]]:
    """The results without any mode, each made once."""

    @cache
    def of(name: str) -> list[Tensor]:
        if name in RESULTS:
            return RESULTS[name]()
        return WHOLE_RESULTS[name](model_file, tmp_path_factory.mktemp("plain"))

    return of


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", RESULTS)
def test_parts(name: str, mode: str, expected: Callable[[str], list[Tensor]]) -> None:
    plain = expected(name)
    with MODES[mode]():
        found = RESULTS[name]()
    _equal(found, plain)


@pytest.mark.parametrize("mode", WHOLE)
@pytest.mark.parametrize("name", WHOLE_RESULTS)
def test_whole(
    name: str,
    mode: str,
    expected: Callable[[str], list[Tensor]],
    model_file: Path,
    tmp_path: Path,
) -> None:
    plain = expected(name)
    with WHOLE[mode]():
        found = WHOLE_RESULTS[name](model_file, tmp_path / "folder")
    _equal(found, plain)


def test_inference_tensors_are_optimised(model_file: Path) -> None:
    """An image, a reference and a start that were made in the inference mode."""
    expected = _optimise(model_file, Path())
    start = QUICK(2 * _images(24, 28) - 1, _images(24, 28))
    with torch.inference_mode():
        images = [_images(24, 28).clone(), 1 - _images(24, 28).roll(2, 3)]
        moved = VelocityNetwork(2, channels=(4, 4))(2 * images[0] - 1)
    assert images[0].is_inference()
    assert moved.affine is not None
    assert moved.affine.is_inference()
    trace = _translator(model_file).translate(
        images[0], reference=images[1], optimise=QUICK, slice_smoothing=1.0, steps=1
    )
    _equal(_tensors(trace)[1:], expected[1:])
    found = QUICK(2 * images[0] - 1, images[0], affine=moved.affine, initial=moved.velocity)
    assert torch.equal(found.displacement, start.displacement)


def test_modes_and_random_states_are_left_as_they_are(model_file: Path) -> None:
    state, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    threads = torch.get_num_threads()
    with _set(torch.set_default_dtype, torch.float64, torch.float32), torch.inference_mode():
        _translate(model_file, Path())
        assert torch.get_default_dtype() == torch.float64
        assert torch.is_inference_mode_enabled()
        with pytest.raises(ValueError, match="at least 1"):
            _translator(model_file).translate(_images(24, 28), steps=0)
        assert torch.get_default_dtype() == torch.float64
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numbers).all()  # noqa: NPY002
    assert torch.get_num_threads() == threads
