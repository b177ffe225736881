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
from plasticine.report.record import as_plain

RESULTS = Path(__file__).parents[1] / "results"


def add_shared_arguments(parser: argparse.ArgumentParser, name: str, every: int) -> None:
    """Adds the arguments of a script that measures a model on some slices of patient 07.

    Args:
        parser: the script's.
        name: of its record in ``RESULTS``, without ``.json``.
        every: which slices it takes, if not told.
    """
    parser.add_argument("--model", default="brain-t1-t2", help="shipped name or file")
    parser.add_argument("--output", type=Path, default=RESULTS / f"{name}.json")
    parser.add_argument("--every", type=int, default=every, help="take every n-th slice")
    add_data_argument(parser)


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
    """Write a record as JSON, NaN and infinity as words, as ``report`` does."""
    text = json.dumps(as_plain(record), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    path.write_text(text, encoding="utf-8")
