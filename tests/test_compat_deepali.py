"""The drop-ins of deepali."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from plasticine import compat
from plasticine.compat import deepali

SIZES = [(9, 7), (6, 8, 7)]


@pytest.fixture(scope="module")
def peer() -> ModuleType:
    """``deepali.core.functional``, which names both functions."""
    return pytest.importorskip("deepali.core.functional", reason="hf-deepali is not installed")


def field(size: tuple[int, ...], generator: torch.Generator, scale: float = 0.3) -> Tensor:
    return torch.randn(2, len(size), *size, generator=generator, dtype=torch.float64) * scale


def with_gradient(function: Any, flow: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """A result, and the gradient of fixed weights of it."""
    flow = flow.clone().requires_grad_()
    result = function(flow, **options)
    weights = torch.sin(torch.arange(result.numel(), dtype=flow.dtype)).reshape(result.shape)
    return result.detach(), torch.autograd.grad((result * weights).sum(), flow)[0]


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("padding", ["border", "zeros", "reflect"])
@pytest.mark.parametrize("size", SIZES)
def test_expv_is_deepalis(
    peer: ModuleType,
    generator: torch.Generator,
    size: tuple[int, ...],
    padding: str,
    align_corners: bool,
):
    """ "reflect" without align_corners is deepali's own."""
    flow = field(size, generator)
    for options in ({}, {"scale": -0.7, "steps": 3}, {"inverse": True, "steps": 4}, {"steps": 0}):
        options |= {"padding": padding, "align_corners": align_corners}
        found = with_gradient(deepali.expv, flow, **options)
        torch.testing.assert_close(found, with_gradient(peer.expv, flow, **options))


def test_expv_takes_deepalis_words_and_hands_over(peer: ModuleType, generator: torch.Generator):
    from deepali.core.enum import PaddingMode, Sampling

    flow = field((9, 7), generator)
    for sampling, padding in (
        (Sampling.LINEAR, PaddingMode.BORDER),
        (Sampling.NEAREST, PaddingMode.ZEROS),
        ("linear", 0.5),
    ):
        found = deepali.expv(flow, sampling=sampling, padding=padding)
        expected = peer.expv(flow, sampling=sampling, padding=padding)
        torch.testing.assert_close(found, expected)


def test_float32_and_half_types(peer: ModuleType, generator: torch.Generator):
    flow = field((6, 8, 7), generator, 0.2).float()
    torch.testing.assert_close(deepali.expv(flow), peer.expv(flow))
    torch.testing.assert_close(deepali.jacobian_det(flow), peer.jacobian_det(flow))
    half = deepali.expv(flow.half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), peer.expv(flow.half().float()), atol=2e-3, rtol=2e-3)


def test_the_layer_is_deepalis(peer: ModuleType, generator: torch.Generator):
    from deepali.modules import ExpFlow

    flow = field((9, 7), generator)
    for arguments in ({}, {"scale": 0.5, "steps": 3, "align_corners": False}):
        theirs, ours = ExpFlow(**arguments), deepali.ExpFlow(**arguments)
        torch.testing.assert_close(ours(flow), theirs(flow))
        torch.testing.assert_close(ours(flow, inverse=True), theirs(flow, inverse=True))
        torch.testing.assert_close(ours.inv(flow), theirs.inv(flow))
        assert repr(ours) == repr(theirs)
        assert list(ours.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize("size", SIZES)
def test_jacobian_det_is_deepalis(
    peer: ModuleType, generator: torch.Generator, size: tuple[int, ...]
):
    """Theirs rounds spacings to float32."""
    flow = field(size, generator)
    spacing = torch.tensor([1.0, 2.0, 0.7])[: len(size)]
    for options in (
        {},
        {"spacing": 2},
        {"spacing": spacing},
        {"spacing": spacing.tolist(), "mode": "forward_central_backward"},
        {"spacing": torch.stack([spacing, spacing * 2])},
        {"sigma": 1.0},
        {"mode": "central"},
        {"add_identity": False},
    ):
        found = with_gradient(deepali.jacobian_det, flow, **options)
        expected = with_gradient(peer.jacobian_det, flow, **options)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_errors(monkeypatch: pytest.MonkeyPatch):
    flow = torch.zeros(1, 2, 4, 5)
    with pytest.raises(TypeError, match="'steps' must be of type int"):
        deepali.expv(flow, steps=2.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'steps' must be positive"):
        deepali.expv(flow, steps=-1)
    with pytest.raises(ValueError, match="dense vector field"):
        deepali.jacobian_det(flow[0])
    with pytest.raises(ValueError, match="must have shape"):
        deepali.jacobian_det(flow[:, :1])
    monkeypatch.setattr("plasticine.compat._handover.original", lambda name: None)
    with pytest.raises(NotImplementedError, match="expv with these options is not served"):
        deepali.expv(flow, sampling="nearest")
    with pytest.raises(NotImplementedError, match="jacobian_det with these options"):
        deepali.jacobian_det(flow, sigma=1.0)


def test_patch_serves_deepali(peer: ModuleType, generator: torch.Generator):
    from deepali.core import Grid
    from deepali.spatial import StationaryVelocityFreeFormDeformation as Deformation

    grid = Grid(size=(12, 10))
    flow = field((10, 12), generator, 0.05)[:1].float()

    def displacement() -> Tensor:
        transform = Deformation(grid, stride=1)
        with torch.no_grad():
            transform.params.copy_(
                torch.linspace(-0.1, 0.1, transform.params.numel()).view_as(transform.params)
            )
        return transform.update().u.detach()

    expected = peer.expv(flow), displacement()
    with compat.patched("deepali") as report:
        assert peer.expv is deepali.expv
        assert "ExpFlow" in str(report)
        found = peer.expv(flow), displacement()
    torch.testing.assert_close(found, expected)
    assert peer.expv is not deepali.expv
