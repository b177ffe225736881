"""Model files and checkpoints: equal bytes, what is refused, and what is kept of large weights."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from recipe_file import linear_stage
from refusal import refuses
from small_models import CONFIGURATION

from plasticine.nn.tensor_file import load_tensors, save_tensors
from plasticine.training.stage import Stage
from plasticine.translation import (
    ModelError,
    TranslationModel,
    load_model,
    save_model,
    shipped_models,
)

LARGEST_HALF = 65504.0


def _parts(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safetensors.safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.fixture
def rewritten(model_file: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes the small model's file again with other metadata or tensors."""

    def write(
        metadata: dict[str, str] | None = None,
        tensors: dict[str, torch.Tensor] | None = None,
        without: str | None = None,
    ) -> Path:
        all_tensors, all_metadata = _parts(model_file)
        all_tensors |= tensors or {}
        all_metadata |= metadata or {}
        all_tensors.pop(without or "", None)
        all_metadata.pop(without or "", None)
        path = tmp_path / "model.safetensors"
        safetensors.torch.save_file(all_tensors, path, all_metadata)
        return path

    return write


def _configuration(**changes: Any) -> dict[str, str]:
    """The small model's configuration with other tables."""
    return {"configuration": json.dumps({**CONFIGURATION, **changes})}


HOSTILE: dict[str, tuple[dict[str, str], str]] = {
    "nested": ({"configuration": "[" * 100_000}, "is not a safetensors file of ours"),
    "nested card": ({"card": "[" * 100_000 + "]" * 100_000}, "is not a safetensors file of ours"),
    "nested just so": (
        {"configuration": '{"ndim": ' + "[" * 600 + "]" * 600 + "}"},
        "damaged model: configuration: ",
    ),
    "no JSON": ({"card": "{"}, "is not a safetensors file of ours"),
    "list": ({"configuration": "[]"}, "damaged model: configuration: expected an object"),
    "number": ({"configuration": "3"}, "damaged model: configuration: expected an object"),
    "list for a table": (_configuration(denoiser=[1]), r"configuration: denoiser: expected an obj"),
    "null": (_configuration(velocity=None), "configuration: velocity: expected an object"),
    "text for a table": (_configuration(sampling="x"), "configuration: sampling: expected an obj"),
    "unknown": (
        _configuration(velocity={"channels": [4, 8, 8], "exec": "x"}),
        r"configuration: \[velocity\] exec: unknown key",
    ),
    "structure": (_configuration(structure={"name": ["mind"]}), r"\[structure\]"),
    "endless": (_configuration(schedule={"steps": 10**12}), r"\[schedule\] steps: expected less"),
    "levels": (_configuration(denoiser={"channels": [8] * 99}), "channels: expected at most 16"),
    "blocks": (_configuration(denoiser={"blocks": 10**9}), r"\[denoiser\] blocks: expected less"),
    "NaN": (_configuration(sampling={"guidance": float("nan")}), "guidance: expected a finite"),
    "card": ({"card": "[1]"}, "damaged model: card: expected an object"),
    "card's axes": ({"card": '{"ndim": 3}'}, "card: ndim: expected 2, as the networks'; got 3"),
    "card's rule": ({"card": '{"normalisation": 3}'}, "card: normalisation: "),
    "card's spacing": ({"card": '{"spacing_mm": "2"}'}, "card: spacing_mm: expected a valid"),
    "card's orientation": ({"card": '{"orientation": [1]}'}, "card: orientation: "),
    "wide window": (
        {"card": '{"normalisation": {"low": -1e308, "high": 1e308}}'},
        r"card: \[normalisation\]: expected low and a width that float32 holds",
    ),
    "low window": (
        {"card": '{"normalisation": {"low": -1e40, "high": 1}}'},
        r"card: \[normalisation\]: expected low and a width that float32 holds",
    ),
    "narrow window": (
        {"card": '{"normalisation": {"low": 0, "high": 1e-320}}'},
        r"card: \[normalisation\]: expected a width of 1\.18e-38 at least",
    ),
    "guidance": (_configuration(sampling={"guidance": -1e300}), "guidance: expected greater than"),
    "much guidance": (_configuration(sampling={"guidance": 1e39}), "guidance: expected less than"),
    "deep card": (
        {"card": '{"data": ' * 220 + "1" + "}" * 220},
        "damaged model: card: it cannot be read: nested too deeply$",
    ),
    "lone surrogate": (
        {"card": '{"data": "\\ud800"}'},
        "damaged model: card: it cannot be read: text with half of a surrogate pair$",
    ),
    "card's name": ({"card": '{"name": {}}'}, r"card: \[name\]: expected a valid string"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_metadata_that_is_not_a_models_is_refused(
    rewritten: Callable[..., Path], case: str
) -> None:
    metadata, message = HOSTILE[case]
    path = rewritten(metadata)
    with pytest.raises(ModelError, match=message) as raised:
        load_model(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("key", ["configuration", "card"])
def test_missing_metadata_is_refused(rewritten: Callable[..., Path], key: str) -> None:
    with pytest.raises(ModelError, match=f"damaged model: {key}: expected an object; got None"):
        load_model(rewritten(without=key))


def _weights_made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many weights each module's parameter has, as they are made."""
    made: list[int] = []
    register = torch.nn.Module.register_parameter

    def counted(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
        made.append(0 if parameter is None else parameter.numel())
        register(module, name, parameter)

    monkeypatch.setattr(torch.nn.Module, "register_parameter", counted)
    return made


@pytest.mark.parametrize(
    "changes",
    [
        {"denoiser": {"channels": [65536] * 3, "blocks": 2}},
        {"velocity": {"channels": [65536, 65536]}},
        {"structure": {"name": "back-translation", "channels": [65536]}},
        {"structure": {"name": "labels", "labels": 65536}},
        {"denoiser": {"channels": [8] * 16, "blocks": 64}},
    ],
)
def test_networks_larger_than_the_file_are_refused_before_they_take_memory(
    rewritten: Callable[..., Path], changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of them has a convolution of 155 GB."""
    path = rewritten(_configuration(**changes))
    held = sum(tensor.numel() for tensor in _parts(path)[0].values())
    made = _weights_made(monkeypatch)
    refuses(ModelError, f"networks have more weights than the file's {held}", load_model, path)
    assert sum(made) <= held


def test_tensors_that_are_not_the_networks_are_refused(rewritten: Callable[..., Path]) -> None:
    name = "velocity.velocity_head.weight"
    weight = _parts(rewritten())[0][name]
    for wrong, message in (
        ({name: weight[None]}, rf"tensor {name}: .* of shape \(2, 8, 3, 3\).*got .* of \(1,"),
        ({name: weight.to(torch.int8)}, rf"tensor {name}: expected floating-point .*int8"),
        ({"extra": weight}, "tensor extra is not known"),
    ):  # fmt: skip
        refuses(ModelError, f"damaged model: {message}", load_model, rewritten(tensors=wrong))
    with pytest.raises(ModelError, match=f"tensor {name} is missing"):
        load_model(rewritten(tensors={"velocity.voxels": weight}, without=name))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(
    rewritten: Callable[..., Path], tmp_path: Path, value: float
) -> None:
    name = "velocity.velocity_head.bias"
    message = f"{name} must be finite; 1 of 2 values is NaN or infinite"
    wrong = torch.tensor([0.5, value], dtype=torch.float16)
    path = rewritten(tensors={name: wrong})
    refuses(ModelError, message, load_model, path)
    model, card = load_model(rewritten())
    with torch.no_grad():
        model.velocity.velocity_head.bias[1] = value
    refuses(ValueError, message, save_model, tmp_path / "new" / "model.safetensors", model, card)
    assert not (tmp_path / "new").exists()


def test_weights_beyond_float32_are_refused(rewritten: Callable[..., Path]) -> None:
    name = "velocity.velocity_head.bias"
    path = rewritten(tensors={name: torch.tensor([0.5, 1e300], dtype=torch.float64)})
    refuses(ModelError, f"{name} must be finite; 1 of 2 values is NaN or inf", load_model, path)


def test_a_card_that_does_not_say_its_axes_has_the_networks(rewritten: Callable[..., Path]) -> None:
    assert load_model(rewritten({"card": "{}"}))[1] == {"ndim": 2}


def test_weights_beyond_float16_are_kept(rewritten: Callable[..., Path], tmp_path: Path) -> None:
    model, card = load_model(rewritten())
    bias = torch.tensor([LARGEST_HALF * 1.5, -1e-3])
    with torch.no_grad():
        model.velocity.velocity_head.bias.copy_(bias)
        model.velocity.velocity_head.weight.fill_(LARGEST_HALF)
    path = tmp_path / "large.safetensors"
    save_model(path, model, card)
    stored = _parts(path)[0]
    dtypes = {name: tensor.dtype for name, tensor in stored.items()}
    assert dtypes.pop("velocity.velocity_head.bias") == torch.float32
    assert set(dtypes.values()) == {torch.float16}
    again = load_model(path)[0].velocity.velocity_head
    assert torch.equal(again.bias, bias)
    assert torch.equal(again.weight, model.velocity.velocity_head.weight)


def test_a_card_that_cannot_be_read_is_not_written(
    rewritten: Callable[..., Path], tmp_path: Path
) -> None:
    model, card = load_model(rewritten())
    with pytest.raises(ValueError, match=r"the model's card: spacing_mm: expected greater than 0"):
        save_model(tmp_path / "out.safetensors", model, {**card, "spacing_mm": 0})
    assert not (tmp_path / "out.safetensors").exists()


def test_shipped_models_say_what_they_said() -> None:
    """Their files are older than the definition of what they hold."""
    for path in shipped_models().values():
        model, card = load_model(path)
        tensors, metadata = load_tensors(path)
        assert card == metadata["card"]
        state = model.state_dict()
        assert all(torch.equal(state[name], tensor.float()) for name, tensor in tensors.items())
        given, known = metadata["configuration"], model.configuration.model_dump(mode="json")
        for name, table in given.items():
            if isinstance(table, dict):
                assert {key: known[name][key] for key in table} == table
            else:
                assert known[name] == table


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    """Whatever the order in which it was put together; safetensors alone has one at random."""
    names = ["card", "configuration", "format", "format_version", "seed", "stage", "é"]
    for index, order in enumerate([names, names[::-1], names, names]):
        tensors = {name: torch.arange(3.0) for name in order}
        metadata = {name: dict.fromkeys(order, 1) for name in order}
        save_tensors(tmp_path / f"{index}.safetensors", tensors, metadata)
    written = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    assert len(written) == 4
    assert len(set(written)) == 1
    (length,) = struct.unpack("<Q", written[0][:8])
    assert length % 8 == 0
    assert list(json.loads(written[0][8 : 8 + length])["__metadata__"]) == names
    tensors, metadata = load_tensors(tmp_path / "0.safetensors")
    assert metadata == {name: dict.fromkeys(names, 1) for name in names}
    assert tensors.keys() == set(names)
    assert all(torch.equal(tensor, torch.arange(3.0)) for tensor in tensors.values())


def _stage(folder: Path) -> Stage:
    return linear_stage(folder, lambda network, draws: network(draws.normal(3)).square().mean())


def test_equal_trainings_give_equal_checkpoints(tmp_path: Path) -> None:
    for name in ("one", "two"):
        _stage(tmp_path / name).run()
    one, two = (tmp_path / name / "linear.checkpoint.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_a_checkpoint_that_is_not_finite_does_not_replace_one_that_is(tmp_path: Path) -> None:
    stage = _stage(tmp_path)

    def spoil(name: str, step: int, steps: int, values: dict[str, float]) -> None:
        if step == 4:
            torch.nn.init.constant_(stage.network.bias, torch.nan)

    refuses(RuntimeError, r"linear: at step 4: network\.bias must be finite", stage.run, spoil)
    resumed = _stage(tmp_path)
    resumed.load()
    assert resumed.step == 2


@pytest.mark.parametrize(
    ("metadata", "without", "message"),
    [
        ({"step": "2"}, None, "expected a step of 0 … 4; got '2'"),
        ({"step": 10**9}, None, "expected a step of 0 … 4; got 1000000000"),
        ({"settings": [1]}, None, "its settings: expected an object"),
        ({"settings": {"steps": 4}}, None, "its settings: batch: missing"),
        ({}, "scaler", "is damaged or of another network: 'scaler'"),
        ({}, "step", "is damaged or of another network: 'step'"),
        ({}, "optimizer.0.exp_avg", r"is damaged .*optimizer\.0\.exp_avg"),
        ({}, "network.bias", "is damaged or of another network"),
    ],
)
def test_a_damaged_checkpoint_is_refused(
    tmp_path: Path, metadata: dict[str, Any], without: str | None, message: str
) -> None:
    _stage(tmp_path).run()
    path = tmp_path / "linear.checkpoint.safetensors"
    tensors, stored = load_tensors(path)
    for content in (tensors, stored):
        content.pop(without or "", None)
    save_tensors(path, tensors, stored | metadata)
    refuses(ValueError, rf"linear\.checkpoint\.safetensors.*{message}", _stage(tmp_path).load)


def test_a_model_is_what_its_definition_says() -> None:
    with pytest.raises(
        ValueError, match=r"the model's configuration: \[denoiser\] chanels: unknown"
    ):
        TranslationModel(json.loads(_configuration(denoiser={"chanels": [8]})["configuration"]))
