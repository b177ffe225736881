"""What drop-ins do with what they do not serve."""

from __future__ import annotations

from typing import Any

from plasticine.compat._patching import original


def theirs(name: str, why: str) -> Any:
    """The original that serves what a drop-in does not.

    Args:
        name: of the original.
        why: what it is that is not served.

    Raises:
        NotImplementedError: its project is not installed.
    """
    found = original(name)
    if found is None:
        raise NotImplementedError(f"{why} is not served here, and {name} is not installed")
    return found
