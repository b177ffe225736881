"""Options of the commands that take transforms."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from plasticine.cli.options import path

if TYPE_CHECKING:
    from plasticine.transforms import Step

_INVERSE = "--inverse"
_TRANSFORM = "--transform"

Transforms = Annotated[
    list[str] | None,
    typer.Option(
        "-t",
        _TRANSFORM,
        metavar="FILE",
        help="A transform, FILE or FORMAT:FILE. Given again: the last one is the first that the "
        "moving image goes through, as antsApplyTransforms has it.",
    ),
]
InverseOfLast = Annotated[
    bool, typer.Option(_INVERSE, help="Right after a --transform: take the inverse of that one.")
]
Fixed = Annotated[
    Path | None,
    typer.Option(parser=path, help="The fixed image, whose points the transform takes."),
]
Moving = Annotated[
    Path | None,
    typer.Option(parser=path, help="The moving image, which it takes them to."),
]
OutputTransform = Annotated[
    str,
    typer.Option("-o", "--output", metavar="FILE", help="Transform to write, or FORMAT:FILE."),
]


class TakesTransforms(TyperCommand):
    """A command in which ``--inverse`` belongs to the ``--transform`` before it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads ``--inverse`` as one more transform of that name, so that its place is kept."""
        marked = [f"{_TRANSFORM}={_INVERSE}" if arg == _INVERSE else arg for arg in args]
        return super().parse_args(ctx, marked)


def check_not_read(output: str | os.PathLike[str], *read: str | os.PathLike[str] | None) -> None:
    """Refuses to write over a file that is read: what it holds would be lost.

    Args:
        output: A file, or ``FORMAT:FILE``.
        read: Likewise; None of what was not given.

    Raises:
        ValueError: One of them is the output.
    """
    from plasticine.transforms.files import named_file

    path, _ = named_file(output)
    for file in (named_file(one)[0] for one in read if one is not None):
        if path.exists() and file.exists() and path.samefile(file):
            raise ValueError(f"{path}: is read, and would be lost; choose another output")


def steps_of(names: list[str] | None) -> list[Step]:
    """The steps that `Transforms` names.

    Args:
        names: Files, each maybe followed by ``--inverse``.

    Raises:
        ValueError: ``--inverse`` follows no transform.
    """
    steps: list[Step] = []
    for name in names or ():
        if name != _INVERSE:
            steps.append((name, False))
        elif steps and not steps[-1][1]:
            steps[-1] = steps[-1][0], True
        else:
            raise ValueError("--inverse: expected right after the --transform that it is of")
    return steps
