"""The bits of the CPU operators while their code is being simplified: those of the commit before.

``python tests/test_bits.py`` writes ``bits.json`` anew. The bits are those of one instruction set.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import plasticine
from plasticine import backends

RECORD = Path(__file__).with_name("bits.json")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SIZES = ((37, 70), (11, 13, 35))
PADDINGS = ("zeros", "border", "reflection")


def results_of(call: str, inputs: list[Tensor], function) -> Iterator[tuple[str, Tensor]]:
    """A result, and the gradients of all inputs."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    results = function(*leaves)
    results = results if isinstance(results, tuple) else (results,)
    weights = [torch.linspace(-1, 2, x.numel()).view(x.shape).to(x.dtype) for x in results]
    gradients = torch.autograd.grad(results, leaves, weights, allow_unused=True)
    for index, x in enumerate([*results, *gradients]):
        if x is not None:
            yield f"{call}:{index}", x.detach()


def calls(dtype: torch.dtype, size: tuple[int, ...]) -> Iterator[tuple[str, Tensor]]:
    """Every operator in every mode, by name."""
    generator = torch.Generator().manual_seed(5)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    ndim = len(size)
    image, field, other = randn(2, 3, *size), randn(2, ndim, *size), randn(2, ndim, *size) * 3
    velocity = field * 0.7
    affine = (torch.eye(ndim, ndim + 1) + 0.1 * randn(2, ndim, ndim + 1).float()).to(dtype)
    for padding in PADDINGS:
        options = {"padding": padding, "backend": "cpu"}
        for mode in ("linear", "nearest", "cubic", "bspline"):
            for operator, matrix in itertools.product(
                (plasticine.warp, plasticine.splat), (None, affine)
            ):
                inputs = [image, other] if matrix is None else [image, other, matrix]

                def sample(x, u, a=None, operator=operator, mode=mode, options=options):
                    return operator(x, u, affine=a, mode=mode, **options)

                name = f"{operator.__name__} {mode} {padding} {matrix is not None}"
                yield from results_of(name, inputs, sample)
        yield from results_of(
            f"compose {padding}",
            [field, other],
            lambda u, v, options=options: plasticine.compose(u, v, **options),
        )
        yield from results_of(
            f"spline {padding}",
            [image],
            lambda x, options=options: plasticine.spline_coefficients(x, **options),
        )
        for method, inverse in itertools.product(("euler", "midpoint", "rk4"), (False, True)):

            def integrate(v, method=method, inverse=inverse, options=options):
                return plasticine.exponential(v, steps=4, method=method, inverse=inverse, **options)

            yield from results_of(
                f"exponential {method} {inverse} {padding}", [velocity], integrate
            )
        yield from results_of(
            f"warp_exponential {padding}",
            [image, velocity],
            lambda x, v, options=options: plasticine.warp_exponential(x, v, steps=4, **options),
        )
        yield from results_of(
            f"invert {padding}",
            [field * 0.1],
            lambda u, options=options: plasticine.invert(u, tolerance=1e-3, **options).displacement,
        )
    for scheme in ("central", "forward", "backward"):
        spacing = [1.0, 1.5, 2.0][:ndim]
        yield from results_of(
            f"jacobian {scheme}",
            [field],
            lambda u, scheme=scheme, spacing=spacing: plasticine.jacobian_determinant(
                u, scheme=scheme, spacing=spacing, backend="cpu"
            ),
        )
        found = plasticine.folding(field, scheme=scheme, backend="cpu")
        for name in ("folds", "minimum", "maximum", "sd_log_jacobian", "non_diffeomorphic_volume"):
            yield f"folding {scheme} {name}", getattr(found, name)


def hashes() -> dict[str, str]:
    """A hash for every operator, mode, dtype and dimension."""
    found: dict[str, str] = {}
    for dtype, size in itertools.product(DTYPES, SIZES):
        for name, x in calls(dtype, size):
            data = x.contiguous().view(torch.uint8).numpy().tobytes()
            found[f"{len(size)}d {dtype} {name}"] = hashlib.sha256(data).hexdigest()[:12]
    return found


def level() -> str:
    return backends.NATIVE.simd_level()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of invert, in half types
def test_bits(native):
    record = json.loads(RECORD.read_text())
    if record["simd_level"] != level():
        pytest.skip(f"the bits were recorded with {record['simd_level']}, this is {level()}")
    found = hashes()
    changed = [name for name, bits in record["hashes"].items() if found.get(name) != bits]
    assert not changed
    assert found.keys() == record["hashes"].keys()


if __name__ == "__main__":
    RECORD.write_text(json.dumps({"simd_level": level(), "hashes": hashes()}, indent=0) + "\n")
