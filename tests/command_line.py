"""Processes that tests start, and what the fixtures of the command line give."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., tuple[int, str, str]]
Process = Callable[..., subprocess.CompletedProcess[str]]


def ran(
    *command: object,
    folder: Path | str,
    without: str | tuple[str, ...] = (),
    timeout: float = 1800,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """A process that has ended.

    Args:
        command: the program and its arguments.
        folder: where it runs; away from the checkout, which would hide the installed package.
        without: how the names of variables begin that it does not inherit.
        timeout: seconds after which it is ended.
        variables: of its environment, beside this process's.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(without)}
    return subprocess.run(
        [*map(str, command)],
        cwd=folder,
        env=inherited | variables,
        capture_output=True,
        encoding="utf-8",
        timeout=timeout,
        check=False,
    )
