"""``plasticine where`` and ``plasticine models``: questions that compute next to nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from plasticine.cli.errors import clear_errors
from plasticine.cli.options import Debug, console, path

_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def where(
    result: Annotated[
        Path,
        typer.Argument(
            parser=path,
            metavar="RESULT",
            help="Folder that `plasticine translate` or `plasticine register` wrote.",
        ),
    ],
    point: Annotated[
        tuple[float, float, float],
        typer.Argument(
            metavar="I J K", help="Voxel indices along the files' axes, from 0; fractions too."
        ),
    ],
    millimetres: Annotated[
        bool,
        typer.Option(
            "--mm", help="I J K are millimetres to the right, front and top (RAS+), as NIfTI has."
        ),
    ] = False,
    as_json: _AsJson = False,
    debug: Debug = False,
) -> None:
    """Say where a point of a result came from, and where a point of the source went.

    φ maps points of the result to points of the source. The Jacobian determinant of φ is the
    source's volume for one unit of the result's: above 1 the source was shrunk there, below 1
    stretched; 0 or less is a fold, where space is turned inside out.

    Write -- before the numbers where one is negative.

    For example:

      plasticine where out 60 71 35

      plasticine where out --mm -- -12.5 30 8
    """
    with clear_errors(debug):
        from plasticine.report.point import locate

        found = locate(result, point, millimetres=millimetres)
        if as_json:
            typer.echo(json.dumps(found))
            return
        table = Table(title=f"Source: {found['source']}", title_justify="left")
        table.add_column("")
        table.add_column("as a point of the result", justify="right")
        table.add_column("as a point of the source", justify="right")
        ways = [found["result_to_source"], found["source_to_result"]]
        rows: list[tuple[str, Any]] = [
            ("this voxel", lambda way: _numbers(way["from"]["voxel"])),
            ("mm, RAS+", lambda way: _numbers(way["from"]["mm"])),
            ("came from / went to, voxel", lambda way: _numbers(way["to"]["voxel"])),
            ("mm, RAS+", lambda way: _numbers(way["to"]["mm"])),
            ("inside that image", lambda way: "yes" if way["to"]["inside"] else "no"),
            ("moved by, mm", lambda way: f"{way['moved_mm']:.3f}"),
            ("source's intensity", lambda way: _number(way["source_intensity"])),
            ("result's intensity", lambda way: _number(way.get("result_intensity"))),
            ("Jacobian determinant", lambda way: _number(way["jacobian"])),
        ]
        for name, of in rows:
            table.add_row(name, *("outside" if way is None else of(way) for way in ways))
        console().print(table)


def models(as_json: _AsJson = False, debug: Debug = False) -> None:
    """List the models that come with Plasticine, and the recipes to train others.

    A model translates at once. A recipe says how one is trained, on its own images or on yours.

    For example:

      plasticine models

      plasticine translate t1.nii.gz --model brain-t1-t2 --output out

      plasticine train --recipe head-mr-ct --source mr/ --target ct/ --output trained
    """
    with clear_errors(debug):
        from plasticine.training.recipe import load_recipe, shipped_recipes
        from plasticine.translation import Translator

        listed: list[dict[str, Any]] = []
        for name in Translator.shipped():
            card = Translator.load(name).card
            listed.append({"name": name, "kind": "model"} | _described(card))
        for name in shipped_recipes():
            card = load_recipe(name).card.model_dump(mode="json", exclude_none=True)
            listed.append({"name": name, "kind": "recipe"} | _described(card))
        if as_json:
            typer.echo(json.dumps(listed, indent=2, ensure_ascii=False))
            return
        table = Table(title="Models and recipes", title_justify="left", show_lines=True)
        for column in ("name", "kind", "what it is for"):
            table.add_column(column, overflow="fold")
        for one in listed:
            texts = [str(one[key]) for key in ("title", "limitations") if key in one]
            table.add_row(one["name"], one["kind"], "\n".join(texts))
        console().print(table)


_SHOWN = (
    *("title", "source_domain", "target_domain", "ndim", "spacing_mm", "intended_use"),
    *("limitations", "licence", "citation"),
)


def _described(card: dict[str, Any]) -> dict[str, Any]:
    return {key: card[key] for key in _SHOWN if key in card}


def _numbers(values: list[float]) -> str:
    return "  ".join(f"{value:.2f}" for value in values)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
