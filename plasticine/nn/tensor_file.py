"""Tensors with JSON metadata in a safetensors file, written whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write ``tensors`` and ``metadata`` to ``path``, which appears or changes only when done.

    Args:
        path: the file; its folder is made if it is not there.
        tensors: any shapes, dtypes and devices; no two may share memory.
        metadata: each value anything that JSON holds.

    Raises:
        OSError: the folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, so that the replacement is one atomic rename; and written by Python,
    # since safetensors' own writer keeps the file from everyone but its owner.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        temporary.write_bytes(
            save(contiguous, {key: json.dumps(value) for key, value in metadata.items()})
        )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what ``save_tensors`` wrote.

    Returns:
        The tensors, on the CPU, and the metadata.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a safetensors file, or its metadata is not JSON.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a safetensors file of ours: {error}") from error
    return tensors, metadata
