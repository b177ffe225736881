"""Runs other projects' own tests of the layers that ``plasticine.compat`` serves, unchanged.

Each suite is fetched into a folder outside of this repository, from its sdist or its public
checkout, and run twice against the project as it is installed: as it is, and patched. What fails
both times is the project's own. ``python tests/compat/run_peer_suites.py`` prints a table in
Markdown; what could not be fetched is in it, with the reason. A copy of a checkout that is here
already is given by ``--checkout monai=FOLDER``, of a git repository with ``monai=FOLDER@REVISION``.
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
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

PLUGIN = """
import os
import plasticine

def pytest_configure(config):
    if os.environ["PLASTICINE_PATCH"]:
        print(plasticine.compat.patch(os.environ["PLASTICINE_PATCH"]))
"""


@dataclass(frozen=True)
class Suite:
    """Tests of a project.

    Attributes:
        project: of ``plasticine.compat``, and of its distribution.
        repository: where its checkout is.
        files: which of its tests are run; none for all.
        needs: what these import and the project does not install.
    """

    project: str
    repository: str
    files: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


SUITES = (
    Suite(
        "monai",
        "https://github.com/Project-MONAI/MONAI",
        (
            "tests/networks/blocks/warp/test_warp.py",
            "tests/networks/blocks/warp/test_dvf2ddf.py",
            "tests/networks/nets/test_voxelmorph.py",
            "tests/networks/layers/test_grid_pull.py",
            "tests/losses/deform/test_bending_energy.py",
            "tests/losses/deform/test_diffusion_loss.py",
            "tests/losses/image_dissimilarity/test_global_mutual_information_loss.py",
            "tests/losses/image_dissimilarity/test_local_normalized_cross_correlation_loss.py",
        ),
        ("parameterized",),
    ),
    Suite("voxelmorph", "https://github.com/voxelmorph/voxelmorph"),
)


def fetched(suite: Suite, version: str, folder: Path, checkout: str | None) -> str:
    """Puts the project's ``tests`` into a folder; says where they are from.

    Raises:
        LookupError: they could not be had.
    """
    if checkout is not None:
        path, _, revision = checkout.partition("@")
        if not revision:
            shutil.copytree(Path(path) / "tests", folder / "tests")
            return "a checkout"
        archive = subprocess.run(
            ["git", "-C", path, "archive", revision, "tests"], capture_output=True, check=False
        )
        if archive.returncode:
            raise LookupError(f"{revision} of the checkout has no tests")
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
            tar.extractall(folder, filter="data")
        described = ["git", "-C", path, "log", "-1", "--format=%h of %as", revision]
        return subprocess.run(described, capture_output=True, text=True).stdout.strip()
    download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
    source = folder / "source"
    fetching = subprocess.run(
        [*download, "-d", str(source), f"{suite.project}=={version}"], capture_output=True
    )
    for file in source.glob("*.tar.gz") if fetching.returncode == 0 else ():
        with tarfile.open(file) as tar:
            tar.extractall(source, filter="data")
        for found in source.glob("*/tests"):
            shutil.copytree(found, folder / "tests")
            return file.name
    for tag in (version, f"v{version}"):
        clone = ["git", "clone", "-q", "--depth", "1", "--branch", tag, suite.repository]
        if subprocess.run([*clone, str(folder / tag)], capture_output=True).returncode == 0:
            shutil.copytree(folder / tag / "tests", folder / "tests")
            return f"tag {tag}"
    raise LookupError("its sdist has no tests, and its repository could not be reached")


def run(suite: Suite, folder: Path, is_patched: bool) -> dict[str, str]:
    """What became of each test."""
    (folder / "patched_by_plasticine.py").write_text(PLUGIN)
    report = folder / f"report_{is_patched}.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "patched_by_plasticine"]
    files = [file for file in suite.files if (folder / file).is_file()] or ["tests"]
    path = os.pathsep.join([str(folder), str(folder / "needs")])
    subprocess.run(
        [*command, "-p", "no:cacheprovider", f"--junitxml={report}", *files],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": path,
            "PLASTICINE_PATCH": suite.project if is_patched else "",
        },
        capture_output=True,
    )
    outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "passed"
        outcome = "skipped" if "skipped" in kinds else outcome
        outcomes[f"{case.get('classname')}::{case.get('name')}"] = outcome
    return outcomes


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkout", action="append", default=[], metavar="PROJECT=FOLDER[@REV]")
    parser.add_argument("projects", nargs="*", help="all without")
    options = parser.parse_args()
    checkouts = dict(each.split("=", 1) for each in options.checkout)
    print("| project | tests of | passed, failed, skipped as it is | patched |")
    print("|---|---|---|---|")
    notes = []
    for suite in SUITES:
        if options.projects and suite.project not in options.projects:
            continue
        try:
            version = importlib.metadata.version(suite.project)
        except importlib.metadata.PackageNotFoundError:
            print(f"| {suite.project} | – | not installed | – |")
            continue
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            try:
                origin = fetched(suite, version, folder, checkouts.get(suite.project))
            except LookupError as error:
                print(f"| {suite.project} {version} | – | not run: {error} | – |")
                continue
            if suite.needs:
                install = [sys.executable, "-m", "pip", "install", "-q", "--target"]
                subprocess.run([*install, str(folder / "needs"), *suite.needs], check=True)
            found = [run(suite, folder, is_patched) for is_patched in (False, True)]
        counts = [Counter(outcomes.values()) for outcomes in found]
        cells = [
            ", ".join(str(c[kind]) for kind in ("passed", "failed", "skipped")) for c in counts
        ]
        print(f"| {suite.project} {version} | {origin} | {' | '.join(cells)} |")
        for test, outcome in sorted(found[1].items()):
            before = found[0].get(test, "not run")
            if "failed" in (outcome, before):
                notes.append(f"- `{test}`: {before} as it is, {outcome} patched")
    print("\n".join(["", *notes]))


if __name__ == "__main__":
    main()
