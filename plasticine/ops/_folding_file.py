"""``folding.safetensors``: the statistics of a batch, with how they were made."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

_FILE = "folding.safetensors"
_FORMAT = "plasticine Folding"
_WORDS = ("scheme", "region")


def save(folder: Path, fields: Mapping[str, Any]) -> None:
    """Writes the fields of a ``Folding``, whole or not at all."""
    from safetensors.torch import save as in_bytes

    tensors = {n: v.detach().cpu().contiguous() for n, v in fields.items() if n not in _WORDS}
    content = in_bytes(tensors, {"format": _FORMAT} | {name: fields[name] for name in _WORDS})
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".plasticine-", dir=folder) as temporary:
        path = Path(temporary) / _FILE
        path.write_bytes(content)
        os.replace(path, folder / _FILE)


def load(folder: Path) -> dict[str, Any]:
    """Reads them."""
    from safetensors import SafetensorError, safe_open

    path = folder / _FILE
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            found: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
    if metadata.get("format") != _FORMAT or not all(isinstance(v, Tensor) for v in found.values()):
        raise ValueError(f"{path}: expected {_FORMAT!r}; got {metadata.get('format')!r}")
    return found | {name: metadata[name] for name in _WORDS}
