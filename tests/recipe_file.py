"""A recipe as the file that a user would write."""

from __future__ import annotations

import json

from plasticine.training.recipe import Recipe


def as_toml(recipe: Recipe) -> str:
    """Every table in a line: of scalars and lists, JSON is TOML."""

    def value(item: object) -> str:
        if isinstance(item, dict):
            return "{ " + ", ".join(f"{key} = {value(inner)}" for key, inner in item.items()) + " }"
        return json.dumps(item)

    content = recipe.model_dump(mode="json", exclude_none=True)
    return "\n".join(f"{key} = {value(item)}" for key, item in content.items())
