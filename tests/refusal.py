"""How a call refuses what it cannot take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def refuses(
    error: type[Exception], message: str, call: Callable[..., Any], *arguments: Any, **named: Any
) -> None:
    """The call raises this error, with a message in which the pattern is found."""
    with pytest.raises(error, match=message):
        call(*arguments, **named)
