"""What drop-ins do with what they do not serve."""

from __future__ import annotations

from typing import Any

from plasticine.compat._patching import original, original_of

_IS_DROP_IN = "_is_drop_in"


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


class DropIn:
    """Base of classes that stand in for another project's, and of what is read as one of them.

    An object of theirs that was pickled before the patch names its class as theirs was named, where
    unpickling finds ours. It stays what it was: objects that exist already are not replaced.
    """

    def __getstate__(self) -> dict[str, Any]:
        """The attributes, marked as those of a drop-in."""
        return {**self.__dict__, _IS_DROP_IN: True}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes the attributes; with those of an original it becomes one.

        Raises:
            RuntimeError: the state is an original's, and the class a subclass of a drop-in.
        """
        if state.pop(_IS_DROP_IN, False):
            getattr(super(), "__setstate__", self.__dict__.update)(state)
            return
        theirs = original_of(type(self))
        if theirs is None:
            raise RuntimeError(
                f"this {type(self).__name__} was saved when it did not stand on a drop-in of "
                "plasticine.compat: load it before patch()"
            )
        self.__class__ = theirs
        getattr(self, "__setstate__", self.__dict__.update)(state)
