"""Properties of ``jacobian_determinant``, ``folding`` and ``invert``."""

from __future__ import annotations

import warnings
from typing import Any

import float64_definitions as definition
import numpy as np
import torch
from comparison import ROUNDING
from hypothesis import assume, given
from hypothesis import strategies as st
from sampling_cases import (
    DTYPES,
    Source,
    agrees,
    counts,
    float64,
    layouts,
    paddings,
    scales,
    seeds,
    spatial_sizes,
)
from search_profiles import more_examples
from torch import Tensor

import plasticine

OPERATOR = "jacobian"  # what holds it holds the others here

dimensions = st.sampled_from((2, 3))
dtypes = st.sampled_from(DTYPES)
schemes = st.sampled_from(("central", "forward", "backward"))
spacings = st.sampled_from((0.25, 0.5, 1.0, 2.0, 4.0))


@more_examples
@given(data=st.data(), dtype=dtypes, scheme=schemes, scale=scales, layout=layouts, seed=seeds)
def test_jacobian_determinant(
    served: Any,
    data: st.DataObject,
    dtype: torch.dtype,
    scheme: str,
    scale: float,
    layout: str,
    seed: int,
) -> None:
    field, spacing = field_of(data, served, dtype, min(scale, 12.0), layout, seed)
    field.requires_grad_()
    result = plasticine.jacobian_determinant(
        field, scheme=scheme, spacing=spacing, backend=served.backend
    )
    assert result.dtype == dtype
    u = float64(field)
    expected = definition.jacobian_determinant(u, scheme, spacing)[:, None]
    slopes = definition.jacobian_matrix(u, scheme, spacing)
    assume(definition.permanent(slopes).max(initial=0) * 100 < torch.finfo(dtype).max)
    agrees(result, expected, definition.permanent(slopes)[:, None])

    grad = Source(seed + 2, served.device).values(result.shape, dtype)
    direction = Source(seed + 3, served.device).values(field.shape, dtype)
    (gradient,) = torch.autograd.grad(result, field, grad)
    # A determinant is a polynomial of degree three at most: the quotient is of the fourth order.
    d, h, quotient = float64(direction), 1e-2, 0.0
    for weight, step in ((8, h), (-8, -h), (-1, 2 * h), (1, -2 * h)):
        ahead = definition.jacobian_determinant(u + step * d, scheme, spacing)[:, None]
        quotient += weight / (12 * h) * (float64(grad) * ahead).sum()
    found = (float64(gradient) * d).sum()
    changed = [
        [np.abs(slope) + np.abs(change) for slope, change in zip(*rows, strict=True)]
        for rows in zip(slopes, definition.jacobian_matrix(d, scheme, spacing), strict=True)
    ]
    magnitudes = np.abs(float64(grad)) * definition.permanent(changed)[:, None]
    magnitude = magnitudes.sum()
    assume(magnitudes.max(initial=0) * 100 < torch.finfo(dtype).max)
    assert abs(found - quotient) <= max(ROUNDING[dtype], 1e-10) * max(1.0, magnitude)


@more_examples
@given(
    data=st.data(),
    dtype=dtypes,
    scheme=schemes,
    region=st.sampled_from(("full", "interior")),
    layout=layouts,
    seed=seeds,
)
def test_folding(
    served: Any,
    data: st.DataObject,
    dtype: torch.dtype,
    scheme: str,
    region: str,
    layout: str,
    seed: int,
) -> None:
    """Of quarters of a voxel, whose determinants are exact: 0 is 0 on every backend."""
    ndim = data.draw(dimensions)
    shape = (data.draw(counts), ndim, *data.draw(spatial_sizes(ndim, most=6)))
    spacing = [data.draw(st.sampled_from((0.5, 1.0, 2.0))) for _ in range(ndim)]
    limit = data.draw(st.sampled_from((0.0, 1.0, 8.0)))
    source = Source(seed, served.device)
    field = (source.values(shape, torch.float64, layout) * limit).round().clamp(-12, 12) / 4
    field = field.to(dtype)
    found = plasticine.folding(
        field, scheme=scheme, spacing=spacing, region=region, backend=served.backend
    )
    jacobian = definition.jacobian_determinant(float64(field), scheme, spacing)
    if region == "interior":
        inner = tuple(slice(1, -1) if n > 2 else slice(None) for n in shape[2:])
        jacobian = jacobian[(slice(None), *inner)]
    jacobian = jacobian.reshape(shape[0], -1) if shape[0] else np.zeros((0, 1))
    logarithm = np.log(np.maximum(jacobian, 1e-9))
    assert found.folds.tolist() == (jacobian <= 0).sum(1).tolist()
    for name, expected in {
        "fraction": (jacobian <= 0).mean(1),
        "minimum": jacobian.min(1),
        "maximum": jacobian.max(1),
        "sd_log_jacobian": logarithm.std(1),
        "non_diffeomorphic_volume": [
            definition.non_diffeomorphic_volume(u, spacing) for u in float64(field)
        ],
    }.items():
        np.testing.assert_allclose(
            float64(getattr(found, name)), expected, rtol=1e-5, atol=1e-6, err_msg=name
        )


@given(data=st.data(), dtype=dtypes, padding=paddings, layout=layouts, seed=seeds)
def test_invert(
    served: Any, data: st.DataObject, dtype: torch.dtype, padding: str, layout: str, seed: int
) -> None:
    """The residual is what it is said to be, and within the tolerance where nothing folds."""
    ndim = data.draw(dimensions)
    size = data.draw(spatial_sizes(ndim))
    gentle = data.draw(st.booleans())
    field = field_without_folds((1, ndim, *size), served, dtype, seed, 0.4 if gentle else 20.0)
    tolerance = data.draw(st.sampled_from((1e-3, 0.1)))
    with warnings.catch_warnings():
        warnings.simplefilter("error" if gentle else "ignore")
        found = plasticine.invert(
            field,
            tolerance=tolerance,
            iterations=100 if gentle else 20,
            padding=padding,
            backend=served.backend,
        )
    assert found.displacement.dtype == dtype
    assert found.residual.dtype == torch.promote_types(dtype, torch.float32)
    assert bool(found.converged.all()) == (found.residual.max().item() <= tolerance)
    if gentle:
        assert bool(found.converged.all())
    u, w = float64(field), float64(found.displacement)
    residual = w + definition.sampling(size, definition.coordinates(w), "linear", padding).read(u)
    largest = np.sqrt((residual**2).sum(1)).max()
    # A rounding of w moves the place where u is read, too.
    steepest = 1 + sum(np.abs(np.diff(u, axis=i)).max(initial=0) for i in range(2, u.ndim))
    rounding = ROUNDING[dtype] * (steepest + np.abs(u).max()) * max(1.0, np.abs(w).max())
    np.testing.assert_allclose(found.residual.item(), largest, rtol=0, atol=rounding)


@given(data=st.data(), padding=st.sampled_from(("border", "reflection")), seed=seeds)
def test_the_gradient_of_invert(served: Any, data: st.DataObject, padding: str, seed: int) -> None:
    """Along a direction, against inverses by plain iteration of fields next to each other."""
    ndim = data.draw(dimensions)
    shape = (1, ndim, *data.draw(spatial_sizes(ndim, most=6)))
    field = field_without_folds(shape, served, torch.float64, seed, 0.3).requires_grad_()
    found = plasticine.invert(field, tolerance=1e-13, padding=padding, backend=served.backend)
    source = Source(seed + 1, served.device)
    grad, direction = (source.values(shape, torch.float64) for _ in range(2))
    (gradient,) = torch.autograd.grad(found.displacement, field, grad)
    u, d, h = float64(field), float64(direction), 1e-7
    low, high = (inverse_of(u + step * d, padding) for step in (-h, h))
    expected = (float64(grad) * (high - low)).sum() / (2 * h)
    magnitude = (grad.abs().sum() * direction.abs().max()).item()
    assert abs((gradient * direction).sum().item() - expected) <= 1e-6 * max(1.0, magnitude)


def inverse_of(u: definition.Array, padding: str) -> definition.Array:
    """``w = -u(p + w)``, of a contraction."""
    w = -u
    for _ in range(28):  # 0.3^28 is a rounding
        places = definition.coordinates(w)
        w = -definition.sampling(u.shape[2:], places, "linear", padding).read(u)
    return w


def field_of(
    data: st.DataObject, served: Any, dtype: torch.dtype, scale: float, layout: str, seed: int
) -> tuple[Tensor, list[float]]:
    """A field, and the size of its voxels."""
    ndim = data.draw(dimensions)
    shape = (data.draw(counts), ndim, *data.draw(spatial_sizes(ndim, maybe_empty=True)))
    spacing = [data.draw(spacings) for _ in range(ndim)]
    return Source(seed, served.device).values(shape, dtype, layout) * scale, spacing


def field_without_folds(
    shape: tuple[int, ...], served: Any, dtype: torch.dtype, seed: int, steepness: float
) -> Tensor:
    """Noise whose neighbours differ by ``steepness`` at most, over all axes: below 1, no folds."""
    field = Source(seed, served.device).values(shape, torch.float64)
    # Of every component at once: |u(p) - u(q)| <= steepness |p - q|.
    reach = 2 * len(shape) * field.abs().max().item()
    return (field * (steepness / reach)).to(dtype)
