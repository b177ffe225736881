"""Other projects' words for our arguments and options: the error says what to write instead."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
import torch

import plasticine
from plasticine import nn
from plasticine.ops import _words

IMAGE, FIELD = torch.zeros(1, 1, 3, 4), torch.zeros(1, 2, 3, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plasticine.warp(IMAGE, FIELD, ddf=FIELD), "write displacement= for ddf="),
        (
            lambda: plasticine.warp(IMAGE, FIELD, padding_mode="zeros"),
            "plasticine.warp has no argument 'padding_mode'; write padding= for padding_mode=",
        ),
        (
            lambda: plasticine.warp(IMAGE, FIELD, align_corners=True),
            "fields are in voxels, as with align_corners=True",
        ),
        (
            lambda: plasticine.warp(IMAGE, FIELD, grid=FIELD),
            "which is the grid's coordinates less p",
        ),
        (
            lambda: plasticine.exponential(FIELD, dvf=FIELD, num_steps=7),
            "plasticine.exponential has no argument 'dvf', 'num_steps'; "
            "write velocity= for dvf=; write steps= for num_steps=",
        ),
        (
            lambda: plasticine.jacobian_determinant(FIELD, flow=FIELD),
            "write displacement= for flow=",
        ),
        (lambda: plasticine.compose(FIELD, FIELD, something=1), "has no argument 'something'"),
        (lambda: nn.Warp(padding_mode="zeros"), "plasticine.nn.Warp has no argument"),
        (lambda: nn.Exponential(nsteps=7), "write steps= for nsteps="),
    ],
)
def test_an_argument(call: Any, message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plasticine.warp(IMAGE, FIELD, mode="bilinear"), "write 'linear' for 'bilinear'"),
        (lambda: nn.Warp("trilinear"), "write 'linear' for 'trilinear'"),
        (lambda: plasticine.splat(IMAGE, FIELD, mode="bicubic"), "write 'cubic' for 'bicubic'"),
        (
            lambda: plasticine.exponential(FIELD, padding="reflect"),
            "write 'reflection' for 'reflect'",
        ),
        (lambda: nn.Warp(padding="nearest"), "write 'border' for 'nearest'"),
    ],
)
def test_a_value(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_hint_is_of_what_is_allowed() -> None:
    with pytest.raises(ValueError, match=r"got 'bicubic'$"):
        plasticine.warp_exponential(IMAGE, FIELD, mode="bicubic")  # has no cubic mode


def test_other_errors_are_as_they_were() -> None:
    with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'displacement'"):
        plasticine.warp(IMAGE, ddf=FIELD)  # Python's own error, which names it
    with pytest.raises(TypeError, match=r"displacement must be a torch\.Tensor, got list"):
        plasticine.warp(IMAGE, [0.0])


def test_words_are_of_arguments_that_there_are() -> None:
    ours = {word for words in _words.ARGUMENTS.values() for word in words}
    functions = [getattr(plasticine, name) for name in plasticine.ops.__all__]
    known = {name for f in functions for name in inspect.signature(f).parameters}
    assert ours <= known
    # What is another project's word there is none of ours in the same place.
    for function in functions:
        for word in inspect.signature(function).parameters:
            assert word not in _words.WITHOUT, (function, word)
