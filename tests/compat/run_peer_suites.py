"""Runs other projects' own tests of what ``plasticine.compat`` serves, unchanged.

``python tests/compat/run_peer_suites.py`` prints a table in Markdown, and the tests that failed by
their reasons; it returns 1 where a failure has none. Each suite is fetched into a folder outside of
this repository, from its sdist or its public repository, and run against the project as it is
installed: as it is; patched; and, where tests ask for equal bits, patched with ``torch.equal`` to
float tolerance. A project that is not installed is installed into that folder. A checkout that is
here already is given by ``--checkout monai=FOLDER``, of a git repository by
``monai=FOLDER@REVISION``.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from peer_suites import SUITES, Suite

# With which pip looks into an sdist: not in an isolated build, for which it would fetch PyTorch.
BUILD = ("setuptools<81", "setuptools-scm[toml]", "versioneer", "wheel", "hatchling")


def version_of(distribution: str, folder: Path | None = None) -> str | None:
    """That of a distribution in a folder, or of one that is installed; None where there is none."""
    places = {} if folder is None else {"path": [str(folder)]}
    for found in importlib.metadata.distributions(name=distribution, **places):
        return found.version
    return None


def installed(suite: Suite, folder: Path) -> str:
    """Puts what is needed and not installed into a folder; the version that is tested."""
    names = [name for name in (suite.distribution, *suite.needs) if version_of(name) is None]
    install = [sys.executable, "-m", "pip", "install", "-q", "--target", str(folder)]
    subprocess.run([*install, *BUILD], check=True)
    if names:
        subprocess.run([*install, "--no-deps", *names], check=True)
    return version_of(suite.distribution) or version_of(suite.distribution, folder) or ""


def fetched(suite: Suite, version: str, folder: Path, checkout: str | None) -> str:
    """Puts the project's tests into ``folder / "tests"``; says where they are from.

    Raises:
        LookupError: they could not be had.
    """
    source = folder / "source"
    source.mkdir()
    if checkout is not None:
        path, _, revision = checkout.partition("@")
        if not revision:
            shutil.copytree(Path(path) / suite.tests, folder / "tests")
            return "a checkout"
        git = ["git", "-C", path]
        archive = subprocess.run([*git, "archive", revision, suite.tests], capture_output=True)
        if archive.returncode:
            raise LookupError(f"{revision} of the checkout has no tests")
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
            tar.extractall(source, filter="data")
        shutil.copytree(source / suite.tests, folder / "tests")
        described = [*git, "log", "-1", "--format=%h of %as", revision]
        return subprocess.run(described, capture_output=True, text=True).stdout.strip()
    download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
    subprocess.run(
        [*download, "--no-build-isolation", "-d", source, f"{suite.distribution}=={version}"],
        env={**os.environ, "PYTHONPATH": str(folder / "needs")},
        capture_output=True,
    )
    for file in source.glob("*.tar.gz"):
        with tarfile.open(file) as tar:
            tar.extractall(source, filter="data")
        for found in source.glob(f"*/{suite.tests}"):
            shutil.copytree(found, folder / "tests")
            return file.name
    for tag in (version, f"v{version}"):
        clone = ["git", "clone", "-q", "--depth", "1", "--branch", tag, suite.repository]
        if subprocess.run([*clone, str(source / tag)], capture_output=True).returncode == 0:
            shutil.copytree(source / tag / suite.tests, folder / "tests")
            return f"tag {tag}"
    raise LookupError("its sdist has no tests, and its repository could not be reached")


def run(
    suite: Suite, folder: Path, is_patched: bool = False, tolerance: bool = False
) -> dict[str, str]:
    """What became of each test."""
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    files = [file for file in suite.files if (folder / file).is_file()] or ["tests"]
    paths = [folder, folder / "needs", Path(__file__).parent]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "peer_tests", "-p", "no:cacheprovider"),
            *("--continue-on-collection-errors", "--rootdir=.", f"--junitxml={report}"),
            *suite.options,
            *files,
        ],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "PEER_TESTS_PATCH": suite.project if is_patched else "",
            "PEER_TESTS_TOLERANCE": "1" if tolerance else "",
            **{f"PEER_TESTS_{name}": "1" for name in suite.helped_by},
        },
        capture_output=True,
        text=True,
    )
    if not report.is_file():
        raise RuntimeError(
            f"{suite.label}: pytest ended without a report:\n{(done.stdout + done.stderr)[-4000:]}"
        )
    outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "passed"
        outcome = "skipped" if "skipped" in kinds else outcome
        outcomes[f"{case.get('classname')}::{case.get('name')}"] = outcome
    return outcomes


def notes_on(suite: Suite, found: list[dict[str, str]]) -> tuple[list[str], int]:
    """Lines of each reason with the tests that fail by it; how many fail by none that is known."""
    tests: dict[str, list[str]] = {}
    for test in sorted(set().union(*found)):
        outcomes = [each.get(test, "not run") for each in found]
        if "failed" in outcomes:
            reason = next((why for part, why in suite.known.items() if part in test), "")
            tests.setdefault(reason, []).append(f"  - `{test}`: {', '.join(outcomes)}")
    lines = []
    for reason, failures in tests.items():
        lines += [f"- {reason or '**Not explained:**'}", *failures]
    return lines, len(tests.get("", []))


def main() -> int:
    """Prints the table; returns 1 if a failure is not explained."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkout", action="append", default=[], metavar="PROJECT=FOLDER[@REV]")
    parser.add_argument("labels", nargs="*", help="of suites, or projects; all without")
    options = parser.parse_args()
    checkouts = dict(each.split("=", 1) for each in options.checkout)
    print("Passed, failed, skipped:\n")
    print("| project | tests of | as it is | patched | to float tolerance |")
    print("|---|---|---|---|---|")
    notes, unexplained = [], 0
    for suite in SUITES:
        if options.labels and not {suite.project, suite.label} & set(options.labels):
            continue
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            version = installed(suite, folder / "needs")
            try:
                origin = fetched(suite, version, folder, checkouts.get(suite.project))
            except LookupError as error:
                print(f"| {suite.label} {version} | – | not run: {error} | – | – |")
                continue
            found = [run(suite, folder), run(suite, folder, is_patched=True)]
            if suite.wants_the_same_bits:
                found.append(run(suite, folder, is_patched=True, tolerance=True))
        counts = [Counter(outcomes.values()) for outcomes in found]
        cells = [
            ", ".join(str(c[kind]) for kind in ("passed", "failed", "skipped")) for c in counts
        ]
        cells += ["–"] * (3 - len(cells))
        print(f"| {suite.label} {version} | {origin} | {' | '.join(cells)} |", flush=True)
        lines, count = notes_on(suite, found)
        unexplained += count
        if lines:
            notes += ["", f"{suite.label}, as it is, patched, and to float tolerance:", "", *lines]
    print("\n".join(notes))
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
