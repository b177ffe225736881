"""Results that go into files and come back, and what a notebook shows of them."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from drawn_head import bent, centred, grid, head
from PIL import Image

import plasticine
from plasticine.nn.tensor_file import save_tensors
from plasticine.ops.folding import Folding
from plasticine.registration import register
from plasticine.registration.pair_registration import PairRegistration
from plasticine.translation import Trace, Translator


@pytest.fixture(scope="module")
def trace(model_file: Path) -> Trace:
    rows, columns = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in (32, 28)), indexing="ij")
    image = (1.2 - (rows**2 + columns**2).sqrt()).clamp(0, 1)
    return Translator.load(model_file).translate(image.expand(2, 1, -1, -1).clone())


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one.nan_to_num(9), other.nan_to_num(9))
    if dataclasses.is_dataclass(one):
        return all(same(value, getattr(other, name)) for name, value in vars(one).items())
    if isinstance(one, tuple | list):
        return list(one) == list(other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return one == other or one != one


def test_a_trace(trace: Trace, tmp_path: Path) -> None:
    trace.save(tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["trace.safetensors"]
    again = Trace.load(tmp_path / "new")
    for field in dataclasses.fields(trace):
        assert same(getattr(trace, field.name), getattr(again, field.name)), field.name
    assert again.one_deformation is trace.one_deformation
    assert torch.equal(again.jacobian, trace.jacobian)
    without = dataclasses.replace(trace, structure_agreement=None)
    without.save(tmp_path)
    assert Trace.load(tmp_path).structure_agreement is None


def test_folding(tmp_path: Path) -> None:
    u = torch.zeros(2, 2, 8, 9)
    u[0, 0, 3, 4] = 3.0  # folds
    u[1, 1, 2, 2] = torch.nan
    found = plasticine.folding(u, scheme="forward", region="interior")
    found.save(tmp_path)
    again = Folding.load(tmp_path)
    assert same(found, again)
    assert (again.scheme, again.region) == ("forward", "interior")


def test_a_registration(tmp_path: Path) -> None:
    shape = (20, 22, 18)
    affine = centred(torch.diag(torch.tensor([8.0, 8, 8, 1])).double().numpy(), shape)
    places = grid(shape, affine)
    moving, fixed = (torch.from_numpy(head(p))[None, None] for p in (places, bent(places)))
    matrix = torch.from_numpy(affine)
    for transform in ("deformable", "rigid"):
        found = register(moving, fixed, matrix, matrix, transform=transform, budget="fast")
        found.save(tmp_path)
        again = PairRegistration.load(tmp_path)
        assert same(
            dataclasses.replace(found), dataclasses.replace(again)
        )  # without what was computed on demand
        assert torch.equal(found.displacement, again.displacement)
        assert torch.equal(found.inverse_displacement, again.inverse_displacement)


def test_refuses(trace: Trace, tmp_path: Path) -> None:
    for kind in (Trace, Folding, PairRegistration):
        with pytest.raises(FileNotFoundError, match="no file"):
            kind.load(tmp_path)
    save_tensors(tmp_path / "trace.safetensors", {"x": torch.zeros(1)}, {"format": "other"})
    with pytest.raises(ValueError, match="expected 'plasticine Trace' of version 1; got 'other'"):
        Trace.load(tmp_path)
    (tmp_path / "folding.safetensors").write_bytes(b"none")
    with pytest.raises(ValueError, match="not a safetensors file"):
        Folding.load(tmp_path)
    metadata = {"format": "plasticine Trace", "format_version": 1, "fields": {}}
    save_tensors(tmp_path / "trace.safetensors", {"source": trace.source}, metadata)
    with pytest.raises(ValueError, match="no whole Trace: 'warped'"):
        Trace.load(tmp_path)


def test_a_notebook_shows_a_trace(trace: Trace) -> None:
    text = trace._repr_html_()
    pictures = re.findall(r"base64,([^\"]+)", text)
    assert len(pictures) == 5
    sizes = [Image.open(io.BytesIO(base64.b64decode(one))).size for one in pictures]
    assert set(sizes) == {(28, 32)}
    for said in ("Trace, slice 0 of 2", "2 × 1 × 32 × 28", "small", "central differences"):
        assert said in text


def test_a_notebook_shows_folding() -> None:
    u = torch.zeros(1, 2, 8, 9)
    u[0, 0, 3, 4] = 3.0
    found = plasticine.folding(u)
    text = found._repr_html_()
    assert f"<td>{int(found.folds)}</td>" in text
    assert "#d62728" in text  # folded
    assert "#d62728" not in plasticine.folding(u * 0)._repr_html_()
    assert "nan" in plasticine.folding(u * torch.nan)._repr_html_()
