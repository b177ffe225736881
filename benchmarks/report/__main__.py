"""From a run's JSON to tables, targets and the picture.

    python -m benchmarks.report RESULT.json [ANOTHER.json ...]    # to stdout
    python -m benchmarks.report RESULT.json --machine epyc-2core  # keep it in benchmarks/results
    python -m benchmarks.report RESULT.json --machine epyc-2core --write-readme
    python -m benchmarks.report --run --machine epyc-2core --write-readme   # all of it

RESULT.json is what ``pytest benchmarks/ --benchmark-only --benchmark-json RESULT.json`` wrote, or a
record in ``benchmarks/results``. What follows ``--`` is for pytest, as in ``--run -- --large``.
``--write-readme`` puts the tables between the markers of README.md and benchmarks/README.md, and
the picture into docs/.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.report import record, tables

ROOT = Path(__file__).resolve().parents[2]
PLOT = "docs/roofline.png"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("result", nargs="*", type=Path, help="a run's JSON; several are one run")
    parser.add_argument("--run", action="store_true", help="run the benchmarks first")
    parser.add_argument("--machine", help="name under which the run is kept, like epyc-2core")
    parser.add_argument("--write-readme", action="store_true", help="tables and picture in place")
    parser.add_argument("--plot", type=Path, help="write the picture here")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout that is written to")
    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if "--" in given else len(given)
    options, for_pytest = parser.parse_args(given[:end]), given[end + 1 :]
    if options.run == bool(options.result):
        parser.error("give a run's JSON, or --run")
    if for_pytest and not options.run:
        parser.error(f"only with --run are there options for pytest: {' '.join(for_pytest)}")
    if options.machine and not re.fullmatch(r"[a-z0-9][a-z0-9-]*", options.machine):
        parser.error("a machine's name is made of a-z, 0-9 and -")
    if options.write_readme and not (options.machine or _is_kept(options)):
        parser.error("--write-readme names the record in its text: give --machine")

    run = _measure(for_pytest) if options.run else record.joined(options.result)
    if options.machine:
        kept = options.root / "benchmarks" / "results" / f"{options.machine}.json"
        run.facts["machine"] = options.machine
        record.save(run, kept)
    elif options.write_readme:
        kept = options.result[0].resolve()
    print(tables.everything(run), tables.targets(run), sep="\n\n")
    if options.plot:
        _draw(run, options.plot)
    if options.write_readme:
        _write(run, options.root, kept.relative_to(options.root.resolve()).as_posix())
    return 0


def _draw(run: record.Run, path: Path) -> None:
    """The picture; a machine that only measures has no Matplotlib."""
    from benchmarks.report import roofline

    roofline.draw(run, path)


def _is_kept(options: argparse.Namespace) -> bool:
    folder = (options.root / "benchmarks" / "results").resolve()
    return len(options.result) == 1 and options.result[0].resolve().parent == folder


def _measure(for_pytest: list[str]) -> record.Run:
    """Runs the benchmarks in a process of their own; one that fails ends the report."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "run.json"
        command = [sys.executable, "-m", "pytest", str(ROOT / "benchmarks"), "-q", "-rs"]
        command += ["-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
        command += ["--benchmark-only", "--benchmark-json", str(result), *for_pytest]
        # Not from the checkout, whose plasticine folder would hide an installed one.
        environment = {**os.environ, "PYTHONSAFEPATH": "1"}
        subprocess.run(command, check=True, cwd=folder, env=environment)
        run = record.load(result)
    describe = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        revision = subprocess.run(describe, capture_output=True, text=True, check=True).stdout
        run.facts["revision"] = revision.strip()
    except (OSError, subprocess.CalledProcessError):
        pass  # no git, or not a clone
    return run


def _write(run: record.Run, root: Path, kept: str) -> None:
    _draw(run, root / PLOT)
    tables.replace_between_markers(
        root / "README.md", "benchmarks", tables.readme_section(run, kept, PLOT)
    )
    link = f"From [`{Path(kept).name}`](results/{Path(kept).name})."
    tables.replace_between_markers(
        root / "benchmarks" / "README.md", "targets", f"{tables.targets(run)}\n\n{link}"
    )


if __name__ == "__main__":
    sys.exit(main())
