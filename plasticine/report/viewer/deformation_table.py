"""What the tables of both kinds of pages are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plasticine.report.document import Markup, table


def deformation_table(folding: dict[str, Any], more: Sequence[Sequence[Any]]) -> Markup:
    """How φ folds, and further rows.

    Args:
        folding: What `describe_folding` gives.
        more: Names and values.
    """
    rows = [
        ("folds", f"{folding['folds']} (J ≤ 0, {folding['scheme']} differences, "
         f"{folding['region']} region)"),
        ("Jacobian det ∇φ", f"{short(folding['minimum'])} to {short(folding['maximum'])}"),
        ("standard deviation of log J", folding["sd_log_jacobian"]),
        ("non-diffeomorphic volume", folding["non_diffeomorphic_volume"]),
    ]  # fmt: skip
    return table("Deformation", [*rows, *more])


def named(facts: dict[str, Any], *, without: Sequence[str] = ()) -> list[tuple[str, Any]]:
    """Rows of a dictionary."""
    return [(key.replace("_", " "), value) for key, value in facts.items() if key not in without]


def short(value: Any) -> str:
    """A number, or the word that stands for one that is not finite."""
    return f"{float(value):.4g}"
