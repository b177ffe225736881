"""A run as it is kept: medians and what they depend on, one line a row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]
RATIO = "times_faster_than_"
# The backends of ours, the fastest first where a run holds several.
OURS = ("plasticine_cuda", "plasticine_triton", "plasticine_cpu")
MACHINE_FACTS = ("device", "threads", "note", "load_average", "versions")


@dataclass(frozen=True)
class Run:
    """One run of the benchmarks.

    Attributes:
        facts: what the figures depend on: machine, device, threads, versions, date.
        rows: operator, case, direction, contender, seconds and all that was recorded with them.
    """

    facts: dict[str, Any]
    rows: list[Row]

    def row(self, operator: str, case: str, direction: str, contender: str) -> Row | None:
        """One measurement, if the run holds it."""
        key = (operator, case, direction, contender)
        return next((row for row in self.rows if key_of(row) == key), None)

    def ours(self, operator: str, case: str, direction: str, suffix: str = "") -> Row | None:
        """Ours, by the fastest backend that was measured."""
        found = (self.row(operator, case, direction, name + suffix) for name in OURS)
        return next((row for row in found if row is not None), None)

    def contest(self, operator: str, case: str, direction: str) -> list[Row]:
        """All who were measured on one thing, in their order."""
        key = (operator, case, direction)
        return [row for row in self.rows if key_of(row)[:3] == key]

    def contests(self) -> Iterator[tuple[str, str, str]]:
        """Every operator, case and direction that was measured, once."""
        yield from dict.fromkeys(key_of(row)[:3] for row in self.rows)


def key_of(row: Row) -> tuple[str, str, str, str]:
    return row["operator"], row["case"], row["direction"], row["contender"]


def load(path: Path) -> Run:
    """Reads the JSON of pytest-benchmark, or what :func:`save` made of it.

    Raises:
        ValueError: it is neither.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    if "rows" in content:
        rows = content.pop("rows")
        return Run(content, rows)
    if "benchmarks" not in content:
        raise ValueError(f"{path} is neither a run of pytest-benchmark nor a record of one")
    information = content["machine_info"]
    facts = {name: information[name] for name in MACHINE_FACTS if name in information}
    facts["python"] = information.get("python_version")
    facts["simd"] = information.get("plasticine", {}).get("simd")
    facts["date"] = content["datetime"][:10]
    return Run(facts, [_row(entry) for entry in content["benchmarks"]])


def joined(paths: Sequence[Path]) -> Run:
    """Several parts of one run, measured one after the other; the facts are those of the first.

    Raises:
        ValueError: a part is no run, or of another device.
    """
    parts = [load(path) for path in paths]
    devices = {part.facts.get("device") for part in parts}
    if len(devices) > 1:
        raise ValueError(f"parts of one run are of one device, not of {sorted(map(str, devices))}")
    return Run(parts[0].facts, [row for part in parts for row in part.rows])


def _row(entry: dict[str, Any]) -> Row:
    information, stats = dict(entry["extra_info"]), entry["stats"]
    ratios = {
        name.removeprefix(RATIO): information.pop(name)
        for name in list(information)
        if name.startswith(RATIO)
    }
    key = {name: information.pop(name) for name in ("operator", "case", "direction", "contender")}
    seconds = {"seconds": stats["median"], "iqr": stats["iqr"], "fastest": stats["min"]}
    seconds["rounds"] = stats["rounds"]
    # Rounded here, so that a run and its record give the same tables.
    return _rounded({**key, **seconds, **information, "times_faster_than": ratios})


def save(run: Run, path: Path) -> None:
    """Writes a run, one row a line."""
    facts = json.dumps(run.facts, indent=1, ensure_ascii=False)
    rows = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in run.rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{facts[:-2]},\n "rows": [\n{rows}\n ]\n}}\n', encoding="utf-8")


def _rounded(value: Any) -> Any:
    """Figures to four digits."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return value
