"""``fireants_fused_ops`` on plasticine, against PyTorch and, where it is installed, FireANTs."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from command_line import ran
from torch import Tensor

from plasticine import compat
from plasticine.compat import fireants as ffo

SIZES = {2: ((9, 7), (6, 11)), 3: ((6, 5, 7), (4, 7, 5))}
MODES, PADDINGS = ("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection")


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ends(size: tuple[int, ...], align: bool) -> tuple[list[float], list[float]]:
    most = [1.0 if align else 1 - 1 / n for n in reversed(size)]
    return [-x for x in most], most


def places(ndim: int, align: bool) -> dict[str, Any]:
    source, size = SIZES[ndim]
    least, most = ends(size, align)
    affine = torch.eye(ndim, ndim + 1, dtype=torch.float64) + randn(2, ndim, ndim + 1) * 0.1
    grid = randn(2, *size, ndim, seed=1) * 0.3
    image = randn(2, 3, *source, seed=2)
    return {"image": image, "affine": affine, "grid": grid, "numbers": (*size, *least, *most)}


def sampled(
    image: Tensor,
    affine: Tensor | None,
    grid: Tensor | None,
    turn: Tensor | None,
    size: tuple[int, ...],
    is_displacement: bool,
    mode: str,
    padding: str,
    align: bool,
) -> Tensor:
    """What FireANTs documents, in PyTorch's own words."""
    ndim = len(size)
    if turn is not None and grid is not None:
        grid = torch.einsum("bij,b...j->b...i", turn, grid)
    if grid is None or is_displacement:
        if affine is None:
            affine = torch.eye(ndim, ndim + 1, dtype=image.dtype).expand(len(image), -1, -1)
        base = F.affine_grid(affine, [len(image), 1, *size], align_corners=align)
        grid = base if grid is None else base + grid
    return F.grid_sample(image, grid, mode, padding, align)


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("given", ["affine", "grid", "both", "absolute", "turned"])
def test_sampler(ndim: int, given: str, mode: str, padding: str, align: bool) -> None:
    if mode == "bicubic" and ndim == 3:
        pytest.skip("F.grid_sample has no such mode")
    if padding == "reflection" and not align:
        pytest.skip("not served")
    made = places(ndim, align)
    affine = made["affine"] if given in ("affine", "both", "turned") else None
    grid = made["grid"] if given != "affine" else None
    turn = randn(2, ndim, ndim, seed=3) if given == "turned" else None
    leaves = [None if x is None else x.requires_grad_() for x in (made["image"], affine, grid)]
    moves = given != "absolute"
    size = SIZES[ndim][1]
    expected = sampled(*leaves, turn, size, moves, mode, padding, align)
    options = (*made["numbers"], moves, MODES.index(mode), PADDINGS.index(padding), align)
    forward = getattr(ffo, f"fused_grid_sampler_{ndim}d_forward")
    image = leaves[0].detach()
    plain = [None if x is None else x.detach() for x in leaves]
    found = forward(*plain, turn, None, *options)
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-10)
    added = forward(*plain, turn, torch.ones_like(found), *options)
    torch.testing.assert_close(added, found + 1)
    grad = randn(*expected.shape, seed=4)
    wanted = torch.autograd.grad(expected, [x for x in leaves if x is not None], grad)
    into = [None if x is None else torch.ones_like(x) for x in plain]
    backward = getattr(ffo, f"fused_grid_sampler_{ndim}d_backward")
    backward(image, *plain[1:], turn, grad, *into, *options)
    for x, y in zip((x for x in into if x is not None), wanted, strict=True):
        torch.testing.assert_close(x - 1, y, rtol=0, atol=1e-9)


def test_what_is_not_served_raises() -> None:
    made = places(2, False)
    with pytest.raises(NotImplementedError, match="align_corners=False"):
        ffo.fused_grid_sampler_2d_forward(
            made["image"], None, made["grid"], None, None, *made["numbers"], True, 0, 2, False
        )
    with pytest.raises(NotImplementedError, match="background_label"):
        ffo.fused_grid_sampler_2d_generic_label_forward(
            made["image"], None, None, None, None, None, *made["numbers"], True, 0, True, True, 1.0
        )


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("turned", [True, False])
def test_composer_and_coordinates(ndim: int, turned: bool, align: bool) -> None:
    made = places(ndim, align)
    size = SIZES[ndim][1]
    affine = made["affine"].requires_grad_() if turned else None
    u = randn(2, *SIZES[ndim][0], ndim, seed=5).requires_grad_()
    v = made["grid"].requires_grad_()
    whole = affine
    if whole is None:
        whole = torch.eye(ndim, ndim + 1, dtype=torch.float64).expand(2, -1, -1)
    coordinates = F.affine_grid(whole, [2, 1, *size], align_corners=align) + v
    composed = F.grid_sample(u.movedim(-1, 1), coordinates, align_corners=align).movedim(1, -1)
    edges = made["numbers"][ndim:]
    plain = [None if x is None else x.detach() for x in (u, affine, v)]
    name = f"fused_grid_composer_{ndim}d"
    found = getattr(ffo, f"{name}_forward")(*plain, *edges, align, None)
    torch.testing.assert_close(found, composed.detach(), rtol=0, atol=1e-10)
    grad = randn(*composed.shape, seed=6)
    leaves = [x for x in (u, affine, v) if x is not None]
    wanted = torch.autograd.grad(composed, leaves, grad, retain_graph=True)
    into = [None if x is None else torch.zeros_like(x) for x in plain]
    getattr(ffo, f"{name}_backward")(*plain, grad, *into, *edges, align)
    for x, y in zip((x for x in into if x is not None), wanted, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-9)

    name = f"fused_warp_create_{ndim}d"
    found = getattr(ffo, f"{name}_forward")(*plain[1:], *edges)
    torch.testing.assert_close(found, coordinates.detach())
    grad = randn(*coordinates.shape, seed=7)
    wanted = torch.autograd.grad(coordinates, leaves[1:], grad)
    into = [None if x is None else torch.zeros_like(x) for x in plain[1:]]
    getattr(ffo, f"{name}_backward")(*plain[1:], grad, *into, *edges)
    for x, y in zip((x for x in into if x is not None), wanted, strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("ndim", [2, 3])
def test_labels(ndim: int) -> None:
    """The greatest of the interpolated one-hot images, and its gradient."""
    made = places(ndim, True)
    labels = randn(2, 1, *SIZES[ndim][0], seed=8).mul(2).round().clamp(0, 3)
    affine, grid = made["affine"].requires_grad_(), made["grid"].requires_grad_()
    hot = F.one_hot(labels.long()[:, 0], 4).movedim(-1, 1).double()
    weights = sampled(hot, affine, grid, None, SIZES[ndim][1], True, "bilinear", "zeros", True).max(
        1, keepdim=True
    )
    options = (*made["numbers"], True, 0, True, True)
    plain = labels, affine.detach(), grid.detach(), None
    name = f"fused_grid_sampler_{ndim}d_generic_label"
    found, best = getattr(ffo, f"{name}_forward")(*plain, None, None, *options, None)
    torch.testing.assert_close(best, weights.values.detach())
    assert torch.equal(found.long(), weights.indices)
    grad = randn(*best.shape, seed=9)
    wanted = torch.autograd.grad(weights.values, (affine, grid), grad)
    into = torch.zeros_like(affine), torch.zeros_like(grid)
    getattr(ffo, f"{name}_backward")(*plain, found, grad, *into, *options)
    for x, y in zip(into, wanted, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-9)


def averaged(x: Tensor, window: int) -> Tensor:
    return F.avg_pool3d(x, window, 1, window // 2, count_include_pad=True)


@pytest.mark.parametrize("of_target", [True, False])
@pytest.mark.parametrize("reduction", ffo.Reduction)
def test_cross_correlation(reduction: ffo.Reduction, of_target: bool) -> None:
    """The pieces as FireANTs puts them together, against autograd through the whole."""
    window, nr, dr = 3, 1e-5, 1e-5
    volume = window**3
    x, y = (randn(2, 2, 6, 5, 7, seed=seed).requires_grad_() for seed in (0, 1))

    def correlation(x: Tensor, y: Tensor) -> Tensor:
        of_x, of_y, xx, yy, xy = (averaged(z, window) for z in (x, y, x * x, y * y, x * y))
        cross = xy - of_x * of_y
        variances = xx - of_x**2, yy - of_y**2
        squared = (cross**2 + nr) / (variances[0].clamp(dr) * variances[1].clamp(dr) + dr)
        if reduction is ffo.Reduction.NONE:
            return squared
        return squared.sum() if reduction is ffo.Reduction.SUM else squared.mean()

    expected = correlation(x, y)
    a, b = x.detach(), y.detach()
    pieces = torch.zeros(2, 10, *a.shape[2:], dtype=a.dtype)
    ffo.create_intermediates(a, b, pieces)
    pieces = averaged(pieces, window)
    found = ffo.cc3d_fwd_interm_v1(pieces, volume, reduction, nr * volume, dr * volume)
    torch.testing.assert_close(found, expected.detach())
    grad = randn(*expected.shape, seed=2)
    wanted = torch.autograd.grad(expected, (x, y), grad)
    into = torch.zeros_like(a), torch.zeros_like(b) if of_target else None
    scaled = nr * volume, dr * volume
    ffo.cc3d_bwd_modify_interm_v1(pieces, a, b, grad, *into, window, volume, *scaled, reduction)
    if of_target:
        pieces = averaged(pieces, window)
    else:  # FireANTs averages what one image needs
        pieces[:, :6] = averaged(pieces[:, :6], window)
    ffo.cc3d_bwd_compute_grads(pieces, a, b, *into)
    # FireANTs' tests divide the gradient of a mean themselves.
    count = a.numel() if reduction is ffo.Reduction.MEAN else 1
    for of_image, right in zip(into, wanted, strict=True):
        if of_image is not None:
            torch.testing.assert_close(of_image / count, right)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_histograms(monkeypatch: pytest.MonkeyPatch, sigma: float) -> None:
    module = importlib.import_module("plasticine.compat.fireants.mutual_information")
    monkeypatch.setattr(module, "_BLOCK", 64)
    bins, least, most = 12, -2.0, 2.5
    x, y = (randn(2, 3, 6, 5, 7, seed=seed).clamp(-2, 2.5).requires_grad_() for seed in (0, 1))

    def windows(image: Tensor) -> Tensor:
        at = (image.flatten(2) - least) / (most - least) * bins - 0.5
        weights = torch.exp(-(((at[..., None] - torch.arange(bins)) / sigma) ** 2) * 2)
        return weights / weights.sum(-1, keepdim=True)

    of_x, of_y = windows(x), windows(y)
    joint = of_x.mT @ of_y / of_x.shape[2]
    expected = joint, of_x.mean(2), of_y.mean(2)
    options = bins, ffo.KernelType.GAUSSIAN, least, most, sigma
    a, b = x.detach(), y.detach()
    found = ffo.mutual_information_histogram_fwd(a, b, *options, False)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.detach())
    grads = [randn(*each.shape, seed=3) for each in expected]
    wanted = torch.autograd.grad(expected, (x, y), grads)
    into = torch.zeros_like(a), torch.zeros_like(b)
    ffo.mutual_information_histogram_bwd(a, b, *grads, bins, *into, *options[1:])
    for one, other in zip(into, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)
    counted, *_ = ffo.mutual_information_histogram_fwd(a, b, *options, True)
    torch.testing.assert_close(counted.sum((-1, -2)), torch.ones(2, 3, dtype=torch.float64))
    spline = bins, ffo.KernelType.BSPLINE, least, most, sigma
    with pytest.raises(NotImplementedError, match="B-spline"):
        ffo.mutual_information_histogram_fwd(a, b, *spline, False)


def test_adam_and_blur() -> None:
    grad, mean, squares = randn(4, 5), randn(4, 5, seed=1), randn(4, 5, seed=2) ** 2
    expected = mean / 0.3 / ((squares / 0.2).sqrt() + 1e-8)
    ffo.adam_update_fused(grad, mean, squares, 0.3, 0.2, 1e-8)
    torch.testing.assert_close(grad, expected)
    spectrum = torch.ones(1, 1, 10, 8, dtype=torch.complex64)
    ffo.gaussian_blur_fft2(spectrum, -5, -4, 5, 4, 0.25)
    assert spectrum[0, 0, 5, 4].real == 0.25
    assert spectrum[0, 0, 0, 4].real < spectrum[0, 0, 2, 4].real < 0.25
    torch.testing.assert_close(spectrum[0, 0, 4], spectrum[0, 0, 6])


@pytest.fixture
def pretended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A FireANTs of one file, that looks for the fused operators."""
    (tmp_path / "fireants").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "1.5.0" if name == "fireants" else version(name)
    )
    before = {name: x for name, x in sys.modules.items() if name.split(".")[0] == "fireants"}
    for name in before:
        monkeypatch.delitem(sys.modules, name)
    yield tmp_path / "fireants"
    compat.unpatch("fireants")
    for name in [name for name in sys.modules if name.split(".")[0] == "fireants"]:
        del sys.modules[name]
    sys.modules.update(before)


def write(folder: Path, text: str) -> None:
    (folder / "__init__.py").write_text("")
    (folder / "inner.py").write_text(f"import fireants_fused_ops as ffo\n{text}\n")
    importlib.invalidate_caches()


def test_patch(pretended: Path) -> None:
    write(pretended, "def step(*x):\n    ffo.adam_update_fused(*x)\n")
    with compat.patched("fireants") as report:
        assert report.replaced == (("fireants_fused_ops", "plasticine.compat.fireants"),)
        assert "fireants 1.5.0: 1 replaced" in str(report)
        inner = importlib.import_module("fireants.inner")
        assert inner.ffo is ffo
    assert "fireants_fused_ops" not in sys.modules


INTERPOLATOR = """
class Dispatcher:
    def __init__(self):
        self._registry = {True: {"grid_sample_3d": "fused"}, False: {"grid_sample_3d": "plain"}}

fireants_interpolator = Dispatcher()
"""


def test_patch_serves_cpu_tensors(pretended: Path) -> None:
    write(pretended, "")
    (pretended / "interpolator.py").write_text(INTERPOLATOR)
    importlib.invalidate_caches()
    with compat.patched("fireants"):
        module = importlib.import_module("fireants.interpolator")
        tables = module.fireants_interpolator._registry
        assert tables[False] == {"grid_sample_3d": "fused"}
    assert tables[False] == {"grid_sample_3d": "plain"}


REAL = """
import torch
from plasticine import compat
compat.patch("fireants")
from fireants.interpolator import fireants_interpolator, fused_grid_sample, grid_sample
from fireants.losses.cc import LocalNormalizedCrossCorrelationLoss
from fireants.losses.fusedcc import FusedLocalNormalizedCrossCorrelationLoss
from fireants.losses.fusedmi import FusedGlobalMutualInformationLoss
from fireants.losses.mi import GlobalMutualInformationLoss

torch.manual_seed(0)
x = torch.rand(1, 1, 9, 10, 11)
y = (0.5 * x + 0.5 * torch.rand_like(x)).requires_grad_()
pairs = {
    "cc": (
        FusedLocalNormalizedCrossCorrelationLoss(3, kernel_size=5, use_ants_gradient=False),
        LocalNormalizedCrossCorrelationLoss(3, kernel_size=5),
    ),
    "mi": (
        FusedGlobalMutualInformationLoss(approximate_reduction=False),
        GlobalMutualInformationLoss(smooth_nr=1e-5, smooth_dr=1e-5, sigma_ratio=1.0),
    ),
}
for name, losses in pairs.items():
    values = [loss(x, y) for loss in losses]
    torch.testing.assert_close(*values, rtol=1e-4, atol=1e-5)
    fused, plain = (torch.autograd.grad(value, y)[0] for value in values)
    fused = fused / x.numel() if name == "cc" else fused
    torch.testing.assert_close(fused, plain, rtol=1e-2, atol=1e-2 * plain.abs().max().item())
grid = torch.randn(1, 5, 6, 7, 3) * 0.2
found = fireants_interpolator(x, grid=grid)
assert torch.equal(found, fused_grid_sample.fused_grid_sampler_3d(x, grid=grid))
torch.testing.assert_close(found, grid_sample.torch_grid_sampler_3d(x, grid=grid))
"""


@pytest.mark.skipif(
    importlib.util.find_spec("fireants") is None, reason="FireANTs is not installed"
)
def test_fireants_itself(tmp_path: Path) -> None:
    """Its fused path on this module against its other path."""
    done = ran(sys.executable, "-c", REAL, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]


def test_patch_comes_first(pretended: Path) -> None:
    write(pretended, "")
    sys.modules["fireants.inner"] = ModuleType("fireants.inner")
    with pytest.raises(RuntimeError, match=r"fireants\.inner was imported already"):
        compat.patch("fireants")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ffo.something_new(1)", r"inner\.py:2 wants something_new"),
        ("ffo.adam_update_fused(1, 2)", r"adam_update_fused: missing a required argument"),
    ],
)
def test_another_version_is_refused(pretended: Path, text: str, message: str) -> None:
    write(pretended, text)
    with pytest.raises(RuntimeError, match=message):
        compat.patch("fireants")
    assert "fireants_fused_ops" not in sys.modules
