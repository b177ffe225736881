"""What an output folder holds already: these results, others, or none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

RECORDS = {"trace.json": "translation", "registration.json": "registration"}


def request_of(files: Mapping[str, Path | None], options: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for, to be recorded with the results and told from other requests.

    Args:
        files: Those that were read, by what they are; their contents count, not their places.
        options: Everything else that the result depends on.

    Raises:
        OSError: A file cannot be read.
    """
    from plasticine.report.record import as_plain

    sums = {name: None if path is None else _checksum(path) for name, path in files.items()}
    plain = as_plain({"sha256": sums, "options": dict(options)})
    assert isinstance(plain, dict)
    return plain


def _checksum(path: Path) -> str:
    """Of a file, or of all files in a folder and their names."""
    checksum = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            name = str(file.name) if path.is_dir() else ""
            checksum.update(name.encode(errors="surrogateescape"))
            with file.open("rb") as opened:
                while block := opened.read(2**20):
                    checksum.update(block)
    return checksum.hexdigest()


def read_record(folder: Path, name: str) -> dict[str, Any] | None:
    """A record of a folder of results; None where there is none that can be read."""
    try:
        record = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def finished(
    folder: Path, name: str, files: Iterable[str], request: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The record of results that a folder holds of the same request.

    Args:
        folder: The output folder.
        name: Of the record, one of `RECORDS`.
        files: All files of the results.
        request: As `request_of` gives it.

    Returns:
        The record; None where the folder holds no results, or not all files of them.

    Raises:
        FileExistsError: It holds results of another request.
    """
    for other, kind in RECORDS.items():
        if other != name and (folder / other).is_file():
            raise _refused(folder, f"a {kind}")
    if not all((folder / file).is_file() for file in files):
        return None
    record = read_record(folder, name)
    held = None if record is None else record.get("request")
    if held == request:
        return record
    raise _refused(folder, f"another {RECORDS[name]}{_differing(held, request)}")


def _refused(folder: Path, what: str) -> FileExistsError:
    return FileExistsError(
        f"{folder}: the output folder holds {what}; --overwrite replaces it, or choose another "
        "folder"
    )


def _differing(held: Any, request: Mapping[str, Any]) -> str:
    """Which parts of two requests differ."""
    if not isinstance(held, dict):
        return ""
    parts = []
    for group, values in request.items():
        earlier = held.get(group)
        earlier = earlier if isinstance(earlier, dict) else {}
        for name in dict.fromkeys([*values, *earlier]):
            before, now = earlier.get(name), values.get(name)
            if before != now:
                short = group == "sha256" or max(len(str(before)), len(str(now))) > 40
                parts.append(f"another {name}" if short else f"{name} {before}, now {now}")
    return f" ({'; '.join(parts)})" if parts else ""
