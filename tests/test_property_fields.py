"""Properties of ``spline_coefficients``, ``compose`` and the exponentials."""

from __future__ import annotations

import math
from typing import Any

import float64_definitions as definition
import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from sampling_cases import (
    DTYPES,
    NOT_FINITE,
    Source,
    agrees,
    batches,
    counts,
    float64,
    layouts,
    paddings,
    scales,
    seeds,
    spatial_sizes,
)
from search_profiles import more_examples

import plasticine
from plasticine.ops._exponential_steps import LIMITS

OPERATOR = "exponential"  # what holds it holds the others here

dimensions = st.sampled_from((2, 3))
dtypes = st.sampled_from(DTYPES)
methods = st.sampled_from(("euler", "midpoint", "rk4"))
squarings = st.integers(0, 7)


@more_examples
@given(data=st.data(), dtype=dtypes, padding=paddings, layout=layouts, seed=seeds)
def test_spline_coefficients(
    served: Any, data: st.DataObject, dtype: torch.dtype, padding: str, layout: str, seed: int
) -> None:
    size = data.draw(spatial_sizes(data.draw(dimensions), maybe_empty=True))
    shape = (data.draw(counts), data.draw(counts), *size)
    others = data.draw(st.sampled_from(((), NOT_FINITE)))
    source = Source(seed, served.device)
    image = source.values(shape, dtype, layout, others).requires_grad_()
    result = plasticine.spline_coefficients(image, padding=padding, backend=served.backend)
    assert result.dtype == dtype
    values, axes = float64(image), tuple(range(2, image.dim()))
    bad = (~np.isfinite(values)).any(axes, keepdims=True)
    values = np.where(bad, 0, values)
    bad = np.broadcast_to(bad, shape)
    # The inverse of one axis' matrix is no larger than 3.
    bound = 3.0 ** len(axes)
    expected = definition.spline_coefficients(values, padding)
    agrees(result, expected, bound * np.abs(values).max(initial=0) + 0 * expected, bad, bad)
    grad = source.values(shape, dtype)
    (gradient,) = torch.autograd.grad(result, image, grad)
    expected = definition.spline_coefficients(float64(grad), padding, adjoint=True)
    agrees(gradient, expected, bound * np.abs(float64(grad)).max(initial=0) + 0 * expected)


@more_examples
@given(
    data=st.data(),
    dtype=dtypes,
    padding=paddings,
    scale=scales,
    layouts_=st.tuples(layouts, layouts),
    seed=seeds,
)
def test_compose(
    served: Any,
    data: st.DataObject,
    dtype: torch.dtype,
    padding: str,
    scale: float,
    layouts_: tuple[str, str],
    seed: int,
) -> None:
    ndim = data.draw(dimensions)
    size_u, size_v = (data.draw(spatial_sizes(ndim)) for _ in range(2))
    batch_u, batch_v = data.draw(batches(2))
    source = Source(seed, served.device)
    u = source.values((batch_u, ndim, *size_u), dtype, layouts_[0]).requires_grad_()
    v = source.displacement((batch_v, ndim, *size_v), dtype, scale, layouts_[1], between=True)
    v.requires_grad_()
    result = plasticine.compose(u, v, padding=padding, backend=served.backend)
    assert result.dtype == dtype
    batch = np.broadcast_shapes((batch_u,), (batch_v,))[0]
    u_, v_ = (np.broadcast_to(float64(x), (batch, *x.shape[1:])) for x in (u, v))
    found = definition.sampling(size_u, definition.coordinates(v_), "linear", padding)
    agrees(result, definition.compose(u_, v_, padding), found.read(np.abs(u_)) + np.abs(v_))

    grad = source.values(result.shape, dtype)
    gradients = torch.autograd.grad(result, (u, v), grad)
    g = float64(grad)
    of_u, magnitude = found.add(g), found.add(np.abs(g))
    of_v, h = g.copy(), 1e-4
    for axis in range(ndim):
        shift = np.zeros((1, ndim, *[1] * ndim))
        shift[0, axis] = h
        low, high = (
            definition.sampling(size_u, definition.coordinates(v_ + s), "linear", padding).read(u_)
            for s in (-shift, shift)
        )
        of_v[:, axis] += ((high - low) / (2 * h) * g).sum(1)
    size = np.abs(g).sum(1, keepdims=True) * max(1.0, np.abs(u_).max(initial=0)) + 0 * of_v
    for x, gradient, arrays in zip(
        (u, v), gradients, ((of_u, magnitude), (of_v, size)), strict=True
    ):
        parts = [a.sum(0, keepdims=True) if len(x) == 1 else a for a in arrays]
        agrees(gradient, *parts, least=1e-9)


@given(
    data=st.data(),
    dtype=dtypes,
    padding=paddings,
    method=methods,
    steps=squarings,
    layout=layouts,
    checkpoint=st.sampled_from(("store", "recompute")),
    seed=seeds,
)
def test_exponential(
    served: Any,
    data: st.DataObject,
    dtype: torch.dtype,
    padding: str,
    method: str,
    steps: int,
    layout: str,
    checkpoint: str,
    seed: int,
) -> None:
    velocity = velocity_of(data, served, dtype, layout, seed).requires_grad_()
    results = plasticine.exponential(
        velocity,
        steps=steps,
        method=method,
        padding=padding,
        inverse=True,
        checkpoint=checkpoint,
        backend=served.backend,
    )
    alone = plasticine.exponential(
        velocity.detach(), steps=steps, method=method, padding=padding, backend=served.backend
    )
    assert torch.equal(alone, results[0])
    for sign, result in zip((1, -1), results, strict=True):
        assert result.dtype == dtype
        expected = definition.exponential(sign * float64(velocity), steps, method, padding)
        agrees(result, expected, growth(velocity) + 0 * expected)


@given(data=st.data(), padding=paddings, method=methods, steps=squarings, seed=seeds)
def test_the_gradient_of_exponential(
    served: Any, data: st.DataObject, padding: str, method: str, steps: int, seed: int
) -> None:
    """Along a direction, against a difference quotient of the definition."""
    velocity = velocity_of(data, served, torch.float64, "contiguous", seed).requires_grad_()
    result, inverse = plasticine.exponential(
        velocity, steps=steps, method=method, padding=padding, inverse=True, backend=served.backend
    )
    source = Source(seed + 1, served.device)
    grads = [source.values(result.shape, torch.float64) for _ in range(2)]
    direction = source.values(result.shape, torch.float64)
    (gradient,) = torch.autograd.grad((result, inverse), velocity, grads)
    v, d, h = float64(velocity), float64(direction), 1e-7

    def weighed(step: float) -> float:
        fields = (
            definition.exponential(sign * (v + step * d), steps, method, padding)
            for sign in (1, -1)
        )
        return sum((float64(g) * u).sum() for g, u in zip(grads, fields, strict=True))

    found = (gradient * direction).sum().item()
    magnitude = growth(velocity) * sum((g.abs() * direction.abs()).sum().item() for g in grads)
    low, here, high = (weighed(step) for step in (-h, 0.0, h))
    # Where a voxel's way ends on another voxel there are two derivatives, and none is promised.
    assume(abs(high + low - 2 * here) / h <= 1e-6 * max(1.0, magnitude))
    assert abs(found - (high - low) / (2 * h)) <= 1e-6 * max(1.0, magnitude)


@given(data=st.data(), method=methods, seed=seeds, scale=st.sampled_from((0.0, 0.5, 3.0, 9.0, 40)))
def test_automatic_squarings(
    served: Any, data: st.DataObject, method: str, seed: int, scale: float
) -> None:
    """As many as the table of the method says for the greatest speed; NaN has none."""
    ndim = data.draw(dimensions)
    shape = (2, ndim, *data.draw(spatial_sizes(ndim)))
    others = data.draw(st.sampled_from(((), NOT_FINITE)))
    velocity = Source(seed, served.device).displacement(shape, torch.float32, scale, others=others)
    speeds = np.sqrt((float64(velocity) ** 2).sum(1))
    peak = speeds[np.isfinite(speeds)].max(initial=0)
    limits = np.array(LIMITS[method])
    assume(np.abs(peak - limits).min() > 1e-4)
    options: dict[str, Any] = {"method": method, "backend": served.backend}
    automatic = plasticine.exponential(velocity, steps="auto", **options)
    explicit = plasticine.exponential(velocity, steps=int((limits < peak).sum()), **options)
    assert torch.equal(automatic.nan_to_num(), explicit.nan_to_num())


@given(
    data=st.data(),
    dtype=dtypes,
    paddings_=st.tuples(paddings, paddings),
    mode=st.sampled_from(("linear", "nearest")),
    method=methods,
    steps=squarings,
    seed=seeds,
)
def test_warp_exponential(
    served: Any,
    data: st.DataObject,
    dtype: torch.dtype,
    paddings_: tuple[str, str],
    mode: str,
    method: str,
    steps: int,
    seed: int,
) -> None:
    padding, field_padding = paddings_
    velocity = velocity_of(data, served, dtype, data.draw(layouts), seed)
    image_size = data.draw(spatial_sizes(velocity.shape[1]))
    shape = (data.draw(st.sampled_from((1, len(velocity)))), data.draw(counts))
    image = Source(seed + 1, served.device).values((*shape, *image_size), dtype)
    options: dict[str, Any] = {"steps": steps, "method": method, "backend": served.backend}
    result = plasticine.warp_exponential(
        image, velocity, mode=mode, padding=padding, field_padding=field_padding, **options
    )
    assert result.dtype == dtype
    u = definition.exponential(float64(velocity), steps, method, field_padding)
    places = definition.coordinates(u)
    batch = np.broadcast_shapes((len(image),), (len(places),))[0]
    places = np.broadcast_to(places, (batch, *places.shape[1:]))
    values = np.broadcast_to(float64(image), (batch, *image.shape[1:]))
    expected = definition.sampling(image_size, places, mode, padding).read(values)
    # Of two voxels the nearest one is told by no rounded coordinate in the middle of them.
    middle = (np.abs(places % 1 - 0.5) < 1e-2).any(1, keepdims=True)
    unsure = np.broadcast_to(middle, expected.shape) & (mode == "nearest")
    size = growth(velocity) * np.abs(values).max(initial=0) + 0 * expected
    agrees(
        torch.where(torch.from_numpy(unsure).to(result.device), torch.nan, result),
        np.where(unsure, np.nan, expected),
        size,
    )


def velocity_of(
    data: st.DataObject, served: Any, dtype: torch.dtype, layout: str, seed: int
) -> torch.Tensor:
    """In float64 of any size; otherwise gentle, for a rounding to stay one: see ``growth``."""
    ndim = data.draw(dimensions)
    shape = (data.draw(counts), ndim, *data.draw(spatial_sizes(ndim)))
    scale = data.draw(
        st.sampled_from((0.01, 0.1, 0.5, 3.0) if dtype == torch.float64 else (0.1, 0.5))
    )
    return Source(seed, served.device).values(shape, dtype, layout) * scale


def growth(velocity: torch.Tensor) -> float:
    """What a rounding of a coordinate may have grown to at the end of the flow.

    By Grönwall's lemma, with the largest difference of neighbours in place of the derivative.
    """
    v = float64(velocity)
    steepest = sum(np.abs(np.diff(v, axis=axis)).max(initial=0) for axis in range(2, v.ndim))
    # With zeros outside, the step at the border is as large as the values.
    return math.exp(min(25.0, steepest + np.abs(v).max(initial=0)))
