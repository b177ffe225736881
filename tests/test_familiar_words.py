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
        # In the place of a tensor that cannot be done without.
        (
            lambda: plasticine.warp(IMAGE, ddf=FIELD),
            "plasticine.warp has no argument 'ddf'; write displacement= for ddf=",
        ),
        (lambda: plasticine.exponential(svf=FIELD), "write velocity= for svf="),
        (
            lambda: nn.Warp()(IMAGE, ddf=FIELD),
            "plasticine.nn.Warp.forward has no argument 'ddf'; write displacement= for ddf=",
        ),
        (lambda: nn.DiffusionLoss()(y_pred=FIELD), "plasticine.nn.DiffusionLoss.forward has no ar"),
        (
            lambda: plasticine.lncc(pred=IMAGE, target=IMAGE, kernel_size=9, reduction="mean"),
            "plasticine.lncc has no argument 'pred', 'target', 'kernel_size', 'reduction'; "
            "write x= for pred=; write y= for target=; write window= for kernel_size=; "
            "operators return one value a sample: take its mean() or sum()",
        ),
        (
            lambda: plasticine.mutual_information(IMAGE, IMAGE, num_bins=8, kernel_type="gaussian"),
            "write bins= for num_bins=; write kernel= for kernel_type=",
        ),
        (
            lambda: nn.LocalNormalizedCrossCorrelationLoss(win=9, kernel="box"),
            "write kernel_size= for win=; write kernel_type= for kernel=",
        ),
        (lambda: nn.GlobalMutualInformationLoss(bins=8), "write num_bins= for bins="),
        (lambda: plasticine.smoothness(y_pred=FIELD, loss_mult=2), "write v= for y_pred=; multipl"),
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
        (
            lambda: plasticine.lncc(IMAGE, IMAGE, kernel="rectangular"),
            "write 'box' for 'rectangular'",
        ),
        (
            lambda: nn.LocalNormalizedCrossCorrelationLoss(kernel_type="box"),
            "write 'rectangular' for 'box'",
        ),
    ],
)
def test_a_value(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_hint_is_of_what_is_allowed() -> None:
    with pytest.raises(ValueError, match=r"got 'bicubic'$"):
        plasticine.warp_exponential(IMAGE, FIELD, mode="bicubic")  # has no cubic mode


FUNCTIONS = [getattr(plasticine, name) for name in plasticine.ops.__all__ if name.islower()]
MODULES = [getattr(nn, name) for name in nn.__all__]


@pytest.mark.parametrize("call", [*FUNCTIONS, *MODULES], ids=lambda call: str(call.__name__))
def test_every_operator_and_module_asks_for_its_own_words(call: Any) -> None:
    with pytest.raises(TypeError, match=f"{call.__name__} has no argument 'something'$"):
        call(something=1)
    if isinstance(call, type):
        call = call().forward
        with pytest.raises(TypeError, match=r"forward has no argument 'something'$"):
            call(something=1)
    # What cannot be left out is asked for, and no signature says otherwise.
    with pytest.raises(TypeError, match=r"the argument \w+ is missing, a torch\.Tensor$"):
        call()
    *_, unknown = parameters = inspect.signature(call).parameters.values()
    assert unknown.kind is inspect.Parameter.VAR_KEYWORD
    assert next(iter(parameters)).default is inspect.Parameter.empty


def test_other_errors_are_as_they_were() -> None:
    with pytest.raises(TypeError, match=r"displacement must be a torch\.Tensor, got list"):
        plasticine.warp(IMAGE, [0.0])


def test_words_are_of_arguments_that_there_are() -> None:
    ours = {word for words in _words.ARGUMENTS.values() for word in words}
    known = {
        name
        for call in [*FUNCTIONS, *MODULES, *(module().forward for module in MODULES)]
        for name in inspect.signature(call).parameters
    }
    assert ours <= known
    # What is another project's word there is none of ours in the same place.
    for function in FUNCTIONS:
        for word in inspect.signature(function).parameters:
            assert word not in _words.WITHOUT, (function, word)
