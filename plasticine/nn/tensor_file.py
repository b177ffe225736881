"""Tensors with JSON metadata in a safetensors file, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from plasticine.nn.output_folder import OutputFolder


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write ``tensors`` and ``metadata`` to ``path``, which appears or changes only when done.

    What is equal gives equal bytes.

    Args:
        path: the file; its folder is made if it is not there.
        tensors: any shapes, dtypes and devices; no two may share memory.
        metadata: each value anything that JSON holds.

    Raises:
        OSError: the folder cannot be written to.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    texts = {key: json.dumps(value, sort_keys=True) for key, value in metadata.items()}
    content = memoryview(save(contiguous, texts))
    # Written by Python, since safetensors' own writer keeps the file from everyone but its owner.
    with (
        OutputFolder(path.parent, [path.name]) as temporary,
        (temporary / path.name).open("wb") as file,
    ):
        header = _HEADER_LENGTH + int.from_bytes(content[:_HEADER_LENGTH], "little")
        file.write(_ordered(bytes(content[_HEADER_LENGTH:header])))
        file.write(content[header:])


_HEADER_LENGTH = 8
"""Bytes of a safetensors file that hold its header's length."""


def _ordered(header: bytes) -> bytes:
    """A header with its length before it, its metadata in order: safetensors has it in none."""
    entries = json.loads(header)
    entries["__metadata__"] = dict(sorted(entries["__metadata__"].items()))
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8
    return len(text).to_bytes(_HEADER_LENGTH, "little") + text


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
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a safetensors file of ours: {error}") from error
    return tensors, metadata
