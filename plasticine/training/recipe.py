"""Recipes: everything a training needs beside the images, in one TOML file."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_TABLES = ("data", "model", "augmentation", "diffusion", "registration", "card")
_OPTIONAL = ("structure",)


@dataclass(frozen=True)
class Recipe:
    """A recipe as its file gives it, one mapping a table.

    Attributes:
        name: the recipe's name, also the model's.
        data: where the images are and what their voxels mean.
        model: architecture and default sampling, as ``translation.TranslationModel`` reads it.
        augmentation: the random deformation, as ``RandomDeformation`` reads it.
        diffusion: training of the denoiser.
        registration: training of the velocity network.
        card: licence, citation and description, for the model's card.
        structure: training of the structure map, where it is a learned one.
    """

    name: str
    data: dict[str, Any]
    model: dict[str, Any]
    augmentation: dict[str, Any]
    diffusion: dict[str, Any]
    registration: dict[str, Any]
    card: dict[str, Any]
    structure: dict[str, Any] | None = None


def shipped_recipes() -> dict[str, Path]:
    """Name and file of each recipe that comes with the package."""
    folder = Path(__file__).parent.parent / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Read a shipped recipe by its name, or any by its path.

    Raises:
        FileNotFoundError: no such recipe.
        ValueError: the file is not TOML, or a table is missing or not known.
    """
    shipped = shipped_recipes()
    path = shipped.get(str(name_or_path), Path(name_or_path))
    if not path.is_file():
        raise FileNotFoundError(
            f"no recipe {str(name_or_path)!r}: neither a file nor one of {', '.join(shipped)}"
        )
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a TOML recipe: {error}") from error
    name = content.pop("name", path.stem)
    missing = [table for table in _TABLES if table not in content]
    unknown = [table for table in content if table not in _TABLES + _OPTIONAL]
    if missing or unknown:
        raise ValueError(
            f"{path} is not a recipe: expected the tables {', '.join(_TABLES)}; "
            f"missing {missing or 'none'}, unknown {unknown or 'none'}"
        )
    return Recipe(name=name, **content)
