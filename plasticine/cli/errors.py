"""What a user sees of an error."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

import typer
from rich.console import Console

BAD_INPUT = 1
"""Exit code: bad input or an error; nothing was written. 2 is a usage that click refuses."""

SOME_FAILED = 3
"""Exit code: of several cases one or more failed; the others were done."""

_SAME_REQUEST = 5.0
"""Seconds within which a second signal is taken for a part of the first one's request."""


@contextlib.contextmanager
def clear_errors(debug: bool) -> Iterator[None]:
    """Turns what bad input raises into one line on stderr and exit code 1.

    A request to end, Ctrl-C, SIGTERM or SIGHUP, ends the command with what it had begun to write
    removed, and exit code 128 plus the signal's number.
    """
    try:
        with _ended_by_signals():
            yield
            check_asked_to_end()
    except typer.Exit:  # which is a RuntimeError
        raise
    except Exception as error:
        if debug or not is_expected(error):
            raise
        message = in_one_line(error)
        console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
        console.print("error:", style="bold red", end=" ")
        console.print(message)
        raise typer.Exit(BAD_INPUT) from error
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted")
        raise typer.Exit(130) from None
    except _Ended as ended:
        Console(stderr=True).print(f"ended by {signal.Signals(ended.number).name}")
        raise typer.Exit(128 + ended.number) from None


class _Ended(BaseException):
    """A signal asked for the end of the command."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


_asked: int | None = None
"""The signal that asked for the end of the command that runs."""


def check_asked_to_end() -> None:
    """Raises again what a request to end has raised.

    Python swallows what is raised while a destructor or a callback of C runs: the command would
    go on, and end as if nobody had asked.
    """
    if _asked == signal.SIGINT:
        raise KeyboardInterrupt
    if _asked is not None:
        raise _Ended(_asked)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Raises ``_Ended``, of Ctrl-C KeyboardInterrupt, where a signal asks for the end."""
    global _asked
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return

    asked = -math.inf

    def end(number: int, frame: FrameType | None) -> None:
        global _asked
        nonlocal asked
        last, asked = asked, time.monotonic()
        # One request often comes as several signals: the others must not cut the removing off.
        if asked - last > _SAME_REQUEST:
            _asked = number
            check_asked_to_end()

    # One that is ignored, as nohup has it, stays so.
    before = {
        number: handler
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if (handler := signal.getsignal(number)) in (signal.SIG_DFL, signal.default_int_handler)
    }
    _asked = None
    try:
        for number in before:
            signal.signal(number, end)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_device(device: str) -> None:
    """Refuses a device that torch does not know or this machine does not have."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device!r} cannot be used here: {error}") from error


def in_one_line(error: BaseException) -> str:
    """What an error says, in one line that can be printed; its kind where it says nothing."""
    from plasticine.report.record import printable

    return printable(" ".join(str(error).split())) or type(error).__name__


def is_expected(error: BaseException) -> bool:
    """Whether bad input raises it; anything else is a defect and keeps its traceback."""
    from plasticine.translation import ModelError

    kinds = (ValueError, TypeError, OSError, OverflowError, RuntimeError, ModelError)
    return isinstance(error, kinds)
