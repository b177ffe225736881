"""What every script of the translation benchmark says beside its figures, and how it is kept."""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

import plasticine


def add_data_argument(parser: argparse.ArgumentParser) -> None:
    """Adds ``--data``, the data folder: PLASTICINE_DATA where it is not given."""
    default = Path(os.environ.get("PLASTICINE_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=default)


def machine() -> dict[str, Any]:
    """The processor, and how many of its threads torch uses."""
    return {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
    }


def versions() -> dict[str, str]:
    """Of this package and of torch."""
    return {"plasticine": plasticine.__version__, "torch": torch.__version__}


def write(path: Path, record: dict[str, Any]) -> None:
    """Write a record as JSON."""
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")
