"""What a user sees of an error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import typer
from rich.console import Console


@contextlib.contextmanager
def clear_errors(debug: bool) -> Iterator[None]:
    """Turns what bad input raises into one line on stderr and exit code 1."""
    try:
        yield
    except Exception as error:
        if debug or not isinstance(error, _expected_errors()):
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
        console.print("error:", style="bold red", end=" ")
        console.print(message)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted")
        raise typer.Exit(130) from None


def check_device(device: str) -> None:
    """Refuses a device that torch does not know or this machine does not have."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device!r} cannot be used here: {error}") from error


def _expected_errors() -> tuple[type[Exception], ...]:
    """What bad input raises; anything else is a defect and keeps its traceback."""
    from plasticine.translation import ModelError

    return (ValueError, TypeError, OSError, RuntimeError, ModelError)
