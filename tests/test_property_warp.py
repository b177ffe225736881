"""Properties of ``warp`` and ``splat``: whatever the arguments, what NumPy makes of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import float64_definitions as definition
import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from sampling_cases import (
    DTYPES,
    HALF,
    MODES,
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
from torch import Tensor

import plasticine

OPERATOR = "warp"


@dataclasses.dataclass(frozen=True)
class Case:
    """Arguments of ``warp``, or of ``splat``, whose image is as large as the displacement."""

    image_size: tuple[int, ...]
    size: tuple[int, ...]
    batches: tuple[int, int, int]
    channels: int
    dtype: torch.dtype
    field_dtype: torch.dtype
    mode: str
    padding: str
    prefilter: bool
    affine: bool
    scale: float
    halves: bool
    layouts: tuple[str, str]
    image_others: tuple[float, ...]
    field_others: tuple[float, ...]
    seed: int

    @property
    def prefiltered(self) -> bool:
        return self.mode == "bspline" and self.prefilter

    @property
    def options(self) -> dict[str, Any]:
        return {"mode": self.mode, "padding": self.padding, "prefilter": self.prefilter}

    def tensors(
        self, device: str, *, splat: bool = False, between: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Image, displacement and affine."""
        source, ndim = Source(self.seed, device), len(self.size)
        shape = (self.batches[0], self.channels, *(self.size if splat else self.image_size))
        image = source.values(shape, self.dtype, self.layouts[0], self.image_others)
        displacement = source.displacement(
            (self.batches[1], ndim, *self.size),
            self.field_dtype,
            self.scale,
            self.layouts[1],
            self.field_others,
            between=between,
            halves=self.halves and not between,
        )
        if not self.affine:
            return image, displacement, None
        return image, displacement, source.affine(self.batches[2], ndim, self.field_dtype)


@st.composite
def cases(draw: st.DrawFn, *, finite: bool = False, modes: tuple[str, ...] = MODES) -> Case:
    ndim = draw(st.sampled_from((2, 3)))
    dtype = draw(st.sampled_from(DTYPES))
    field_dtype = draw(st.sampled_from((dtype, torch.float32))) if dtype in HALF else dtype
    padding = draw(paddings)
    # The mirror image of what lies 10^30 voxels away is told by no float.
    far = () if padding == "reflection" else (3e4, -1e30)
    some = st.just(()) if finite else st.sampled_from(((), (), NOT_FINITE))
    return Case(
        image_size=draw(spatial_sizes(ndim)),
        size=draw(spatial_sizes(ndim, maybe_empty=not finite)),
        batches=draw(batches(3)),
        channels=draw(counts),
        dtype=dtype,
        field_dtype=field_dtype,
        mode=draw(st.sampled_from(modes)),
        padding=padding,
        prefilter=draw(st.booleans()),
        affine=draw(st.booleans()),
        scale=draw(scales),
        halves=draw(st.booleans()),
        layouts=(draw(layouts), draw(layouts)),
        image_others=draw(some),
        field_others=() if finite else draw(st.sampled_from(((), NOT_FINITE, far))),
        seed=draw(seeds),
    )


@given(case=cases())
def test_warp_is_what_it_is_defined_as(served: Any, case: Case) -> None:
    tensors = case.tensors(served.device)
    image, displacement, affine = tensors
    result = plasticine.warp(
        image, displacement, affine=affine, **case.options, backend=served.backend
    )
    assert result.dtype == case.dtype
    values, found = sampled(case, tensors)
    bad = ~np.isfinite(values)
    if case.prefiltered:  # a NaN is in every coefficient of its channel
        bad[:] = bad.any(axis=tuple(range(2, bad.ndim)), keepdims=True)
    values = np.where(bad, 0, values)
    coefficients = definition.spline_coefficients(values, case.padding)
    coefficients = coefficients if case.prefiltered else values
    undefined = np.reshape(found.undefined, (len(values), 1, *case.size))
    agrees(
        result,
        np.where(undefined, np.nan, found.read(coefficients)),
        found.read(np.abs(coefficients), found.magnitudes()),
        found.read(bad * 1.0, found.certain()) > 0,
        found.read(bad * 1.0, found.taps) > 0,
    )


@given(case=cases())
def test_splat_is_its_transpose(served: Any, case: Case) -> None:
    tensors = case.tensors(served.device, splat=True)
    image, displacement, affine = tensors
    result = plasticine.splat(
        image,
        displacement,
        affine=affine,
        size=case.image_size,
        **case.options,
        backend=served.backend,
    )
    assert result.dtype == case.dtype
    values, found = sampled(case, tensors)
    bad = ~np.isfinite(values)
    values = np.where(bad, 0, values)
    expected = found.add(values)
    magnitude = found.add(np.abs(values), found.magnitudes())
    certain = found.add(bad * 1.0, found.certain()) > 0
    possible = found.add(bad * 1.0, found.taps) > 0
    if case.prefiltered:
        axes = tuple(range(2, expected.ndim))
        expected = definition.spline_coefficients(expected, case.padding, adjoint=True)
        # The inverse of one axis' matrix is no larger than 3.
        magnitude = magnitude.max(axes, keepdims=True, initial=0) * 3.0 ** len(axes) + 0 * expected
        certain, possible = (
            np.broadcast_to(x.any(axes, keepdims=True), x.shape) for x in (certain, possible)
        )
    agrees(result, expected, magnitude, certain, possible)


@given(case=cases(finite=True))
def test_splat_is_the_adjoint_of_warp(served: Any, case: Case) -> None:
    """``<warp(x, u), y> = <x, splat(y, u)>``, ties and kinks included."""
    case = dataclasses.replace(case, dtype=torch.float64, field_dtype=torch.float64)
    x, displacement, affine = case.tensors(served.device)
    warped = plasticine.warp(x, displacement, affine=affine, **case.options, backend=served.backend)
    y = Source(case.seed + 1, served.device).values(warped.shape, torch.float64)
    added = plasticine.splat(
        y,
        displacement,
        affine=affine,
        size=case.image_size,
        **case.options,
        backend=served.backend,
    )
    left, right = (warped * y).sum().item(), (x * added).sum().item()
    magnitude = (x.abs() * added.abs()).sum().item() + (warped * y).abs().sum().item()
    assert abs(left - right) <= 1e-12 * max(1.0, magnitude)


@given(case=cases(finite=True))
def test_the_gradients_of_warp(served: Any, case: Case) -> None:
    """To the image the transpose, to the coordinates a difference quotient of the definition."""
    tensors = case.tensors(served.device, between=True)
    inputs = [x.detach().requires_grad_() for x in tensors if x is not None]
    result = plasticine.warp(
        inputs[0],
        inputs[1],
        affine=inputs[2] if case.affine else None,
        **case.options,
        backend=served.backend,
    )
    grad = Source(case.seed + 1, served.device).values(result.shape, case.dtype)
    gradients = torch.autograd.grad(result, inputs, grad)
    values, found = sampled(case, tensors)
    g = float64(grad)
    of_image, magnitude = found.add(g), found.add(np.abs(g), found.magnitudes())
    if case.prefiltered:
        axes = tuple(range(2, g.ndim))
        of_image = definition.spline_coefficients(of_image, case.padding, adjoint=True)
        magnitude = magnitude.max(axes, keepdims=True, initial=0) * 3.0 ** len(axes) + 0 * of_image
        values = definition.spline_coefficients(values, case.padding)
    agrees(gradients[0], *summed_as(tensors[0], of_image, magnitude))
    of_coordinates, magnitude = coordinate_gradient(case, tensors, values, g)
    agrees_with_coordinates(case, tensors, gradients[1:], of_coordinates, magnitude)


@given(case=cases(finite=True))
def test_the_gradients_of_splat(served: Any, case: Case) -> None:
    """``<splat(y, u), g>`` is ``<y, warp(g, u)>``: to y it is warp, to u that of warp."""
    tensors = case.tensors(served.device, splat=True, between=True)
    inputs = [x.detach().requires_grad_() for x in tensors if x is not None]
    result = plasticine.splat(
        inputs[0],
        inputs[1],
        affine=inputs[2] if case.affine else None,
        size=case.image_size,
        **case.options,
        backend=served.backend,
    )
    grad = Source(case.seed + 1, served.device).values(result.shape, case.dtype)
    gradients = torch.autograd.grad(result, inputs, grad)
    values, found = sampled(case, tensors)
    g = float64(grad)
    if case.prefiltered:
        g = definition.spline_coefficients(g, case.padding)
    magnitude = found.read(np.abs(g), found.magnitudes())
    agrees(gradients[0], *summed_as(tensors[0], found.read(g), magnitude))
    of_coordinates, magnitude = coordinate_gradient(case, tensors, g, values)
    agrees_with_coordinates(case, tensors, gradients[1:], of_coordinates, magnitude)


def sampled(
    case: Case, tensors: tuple[Tensor, Tensor, Tensor | None]
) -> tuple[definition.Array, definition.Sampling]:
    """The image of the whole batch, in float64, and how it is sampled."""
    image, displacement, affine = (None if x is None else float64(x) for x in tensors)
    places = definition.coordinates(displacement, affine)
    batch = np.broadcast_shapes((len(image),), (len(places),))[0]
    places = np.broadcast_to(places, (batch, *places.shape[1:]))
    image = np.broadcast_to(image, (batch, *image.shape[1:]))
    return image, definition.sampling(case.image_size, places, case.mode, case.padding)


def coordinate_gradient(
    case: Case,
    tensors: tuple[Tensor, Tensor, Tensor | None],
    values: definition.Array,
    cotangent: definition.Array,
) -> tuple[definition.Array, definition.Array]:
    """The derivative of ``<warp(values), cotangent>`` by every coordinate, and its magnitude."""
    _, displacement, affine = (None if x is None else float64(x) for x in tensors)
    places = definition.coordinates(displacement, affine)
    places = np.broadcast_to(places, (len(values), *places.shape[1:]))
    h, quotients, magnitudes = 1e-4, [], []
    for axis in range(len(case.size)):
        shift = np.zeros((1, len(case.size), *[1] * len(case.size)))
        shift[0, axis] = h
        ends = [
            definition.sampling(case.image_size, places + step, case.mode, case.padding)
            for step in (-shift, shift)
        ]
        low, high = (end.read(values) for end in ends)
        quotients.append(((high - low) / (2 * h) * cotangent).sum(1))
        size = sum(end.read(np.abs(values), end.magnitudes()) for end in ends)
        magnitudes.append((size * np.abs(cotangent)).sum(1))
    return np.stack(quotients, 1), np.stack(magnitudes, 1)


def agrees_with_coordinates(
    case: Case,
    tensors: tuple[Tensor, Tensor, Tensor | None],
    gradients: tuple[Tensor, ...],
    expected: definition.Array,
    magnitude: definition.Array,
) -> None:
    """Compares the gradients of displacement and affine with that of the coordinates."""
    _, displacement, affine = tensors
    agrees(gradients[0], *summed_as(displacement, expected, magnitude), least=1e-6)
    if affine is not None:
        places = np.indices(case.size, dtype=float)
        moments = np.concatenate([places, np.ones((1, *case.size))]).reshape(len(places) + 1, -1)
        flat = (x.reshape(*x.shape[:2], moments.shape[1]) for x in (expected, magnitude))
        of_affine = [np.einsum("nip,jp->nij", x, moments) for x in flat]
        agrees(gradients[1], *summed_as(affine, *of_affine), least=1e-6)


def summed_as(x: Tensor, *arrays: definition.Array) -> list[definition.Array]:
    """Gradients of the whole batch added up where ``x`` was one sample for all."""
    return [a.sum(0, keepdims=True) if len(x) == 1 else a for a in arrays]
