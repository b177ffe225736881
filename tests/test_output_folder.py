"""A set of files is all old, all new, or lacks one, wherever its writer is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Run
from refusal import refuses

from plasticine.io import OutputFolder
from plasticine.nn import output_folder
from plasticine.report import RESULT_FILES, read_results, result_folder

NAMES = ("a", "b", "c")

# Writes the set anew, and dies by SIGKILL at the n-th step that changes what is on the disk.
KILLED = """
import os, signal, sys
import importlib.util
spec = importlib.util.spec_from_file_location("output_folder", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
folder, last, names = sys.argv[2], int(sys.argv[3]), sys.argv[4:]
replace, steps = os.replace, 0

def counted(*arguments):
    global steps
    if steps == last:
        os.kill(os.getpid(), signal.SIGKILL)
    steps += 1
    replace(*arguments)

os.replace = counted
with module.OutputFolder(folder, names) as temporary:
    for name in names:
        (temporary / name).write_text("new")
"""


def _written(folder: Path, content: str, names: tuple[str, ...] = NAMES) -> None:
    with OutputFolder(folder, names) as temporary:
        for name in names:
            (temporary / name).write_text(content)


def _found(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def _hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".plasticine-")]


def _killed(folder: Path, step: int, names: tuple[str, ...] = NAMES) -> int:
    source = str(output_folder.__file__)
    command = [sys.executable, "-c", KILLED, source, str(folder), str(step), *names]
    return subprocess.run(command, check=False).returncode


@pytest.mark.parametrize("step", range(2 * len(NAMES) + 1))
def test_a_writer_killed_between_two_files_leaves_no_old_one_beside_a_new_one(
    tmp_path: Path, step: int
) -> None:
    _written(tmp_path, "old")
    (tmp_path / "other").write_text("kept")
    code = _killed(tmp_path, step)
    assert code == (-signal.SIGKILL if step < 2 * len(NAMES) else 0)
    found = _found(tmp_path)
    assert found.pop("other") == "kept"
    assert len(set(found.values())) <= 1
    if step == 0:
        assert found == dict.fromkeys(NAMES, "old")
    elif step < 2 * len(NAMES):
        assert len(found) < len(NAMES)
        assert len(_hidden(tmp_path)) == 1
    else:
        assert found == dict.fromkeys(NAMES, "new")
    # The next run clears what the dead process left, and is whole again.
    _written(tmp_path, "newest")
    assert _found(tmp_path) == {**dict.fromkeys(NAMES, "newest"), "other": "kept"}
    assert not _hidden(tmp_path)


def test_one_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    _written(tmp_path, "old", ("a",))
    assert _killed(tmp_path, 0, ("a",)) == -signal.SIGKILL
    assert _found(tmp_path) == {"a": "old"}
    assert _killed(tmp_path, 1, ("a",)) == 0
    assert _found(tmp_path) == {"a": "new"}


def test_half_a_result_is_no_result(tmp_path: Path) -> None:
    for step in (1, len(RESULT_FILES) + 1):
        _written(tmp_path, "old", tuple(RESULT_FILES))
        assert _killed(tmp_path, step, tuple(RESULT_FILES)) == -signal.SIGKILL
        with pytest.raises(FileNotFoundError, match="expected the folder of a translation, with"):
            read_results(tmp_path)


def test_a_result_that_is_replaced_while_it_is_read_is_refused(
    run: Run, head: Path, model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert run("translate", head, "--model", model_file, "--output", out, "--steps", "1")[0] == 0
    read = result_folder.read_displacement

    def replaced(path: Path) -> object:
        content = {name: (out / name).read_bytes() for name in RESULT_FILES}
        with OutputFolder(out, RESULT_FILES) as temporary:
            for name in RESULT_FILES:
                (temporary / name).write_bytes(content[name])
        return read(path)

    assert read_results(out).translated.shape == (3, 1, 28, 24)
    monkeypatch.setattr(result_folder, "read_displacement", replaced)
    with pytest.raises(ValueError, match="another translation was written there while it was read"):
        read_results(out)


@pytest.mark.parametrize("step", range(2 * len(NAMES)))
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_between_two_files_puts_the_old_ones_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, error: type[BaseException]
) -> None:
    _written(tmp_path, "old", ("a", "b"))  # c is new
    replace, calls = os.replace, iter(range(100))

    def failing(*arguments: Path) -> None:
        if next(calls) == step:
            raise error("stopped")
        replace(*arguments)

    monkeypatch.setattr(os, "replace", failing)
    if step < 5:  # two old files and three new ones
        refuses(error, "stopped", _written, tmp_path, "new")
        assert _found(tmp_path) == {"a": "old", "b": "old"}
    else:
        _written(tmp_path, "new")
        assert _found(tmp_path) == dict.fromkeys(NAMES, "new")
    assert not _hidden(tmp_path)


def test_what_is_in_place_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file before it is moved, and the folder once old ones are gone and new ones there."""
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synchronised(file: int) -> None:
        events.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{file}')).name}")
        fsync(file)

    def replaced(source: Path, target: Path) -> None:
        events.append(f"{'take' if Path(source).parent == tmp_path else 'put'} {target.name}")
        replace(source, target)

    _written(tmp_path, "old", ("a", "b"))
    monkeypatch.setattr(os, "fsync", synchronised)
    monkeypatch.setattr(os, "replace", replaced)
    _written(tmp_path, "new", ("a", "b"))
    folder = f"fsync {tmp_path.name}"
    assert events == [
        "fsync a", "fsync b", "take a", "take b", folder, "put a", "put b", folder
    ]  # fmt: skip
    events.clear()
    _written(tmp_path, "new", ("a",))
    assert events == ["fsync a", "put a", folder]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    for names in (("a",), ("a", "b")):
        folder = tmp_path / str(len(names))
        folder.mkdir()
        (tmp_path / "elsewhere").write_text("kept")
        (folder / "a").symlink_to(tmp_path / "elsewhere")
        _written(folder, "new", names)
        assert not (folder / "a").is_symlink()
        assert _found(folder) == dict.fromkeys(names, "new")
        assert (tmp_path / "elsewhere").read_text() == "kept"


@pytest.fixture
def other_writer(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that is writing into the folder, until its input is closed."""
    code = KILLED.replace(
        "    for name in names:\n", "    print('in', flush=True)\n    input()\n", 1
    )
    code = code.rsplit("        (temporary", 1)[0]
    command = [sys.executable, "-c", code, str(output_folder.__file__), str(tmp_path), "99", "a"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    yield process
    process.kill()
    process.communicate()


def test_a_folder_in_use_is_left_alone_and_an_abandoned_one_is_not(
    tmp_path: Path, other_writer: subprocess.Popen[str]
) -> None:
    (theirs,) = _hidden(tmp_path)
    with OutputFolder(tmp_path, ["b"]) as temporary:
        assert set(_hidden(tmp_path)) == {theirs, temporary.name}
        (temporary / "b").write_text("new")
    assert _hidden(tmp_path) == [theirs]
    other_writer.kill()
    other_writer.wait()
    assert _hidden(tmp_path) == [theirs]
    _written(tmp_path, "newer", ("b",))
    assert not _hidden(tmp_path)


def test_what_is_not_ours_is_left_alone_and_a_link_is_not_followed(tmp_path: Path) -> None:
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "folder"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("kept")
    (folder / ".plasticine-environment").mkdir(parents=True)
    (folder / ".plasticine-environment" / "precious").write_text("a user's")
    (folder / ".plasticine-dead").mkdir()
    (folder / ".plasticine-dead" / output_folder._LOCK).touch()
    (folder / ".plasticine-link").symlink_to(elsewhere)
    (folder / ".plasticine-file").write_text("a user's")
    _written(folder, "new")
    kept = [".plasticine-environment", ".plasticine-file", ".plasticine-link"]
    assert sorted(_hidden(folder)) == kept
    assert (folder / ".plasticine-environment" / "precious").read_text() == "a user's"
    assert [path.name for path in elsewhere.iterdir()] == ["kept"]


def test_what_tells_of_earlier_files_goes_with_them(tmp_path: Path) -> None:
    for name in ("a", "figures", "other"):
        (tmp_path / name).write_text("old")
    with (
        pytest.raises(ValueError, match="failed"),
        OutputFolder(tmp_path, ["a"], ["figures", "none"]) as temporary,
    ):
        raise ValueError("failed")
    assert (tmp_path / "figures").read_text() == "old"
    with OutputFolder(tmp_path, ["a"], ["figures", "none"]) as temporary:
        (temporary / "a").write_text("new")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a": "new", "other": "old"}


# Writes a set of files again and again, each time with the same word in all of them.
WRITER = """
import sys
from plasticine.nn.output_folder import OutputFolder
folder, who, names = sys.argv[1], sys.argv[2], sys.argv[3:]
for turn in range(60):
    with OutputFolder(folder, names) as temporary:
        for name in names:
            (temporary / name).write_text(f"{who}{turn}")
"""


def test_two_writers_take_turns(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen([*command, who, *NAMES]) for who in "xy"]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert len(set(_found(tmp_path).values())) == 1
    assert not _hidden(tmp_path)


def test_a_hidden_folder_taken_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process that enters at that moment takes it for an abandoned one."""
    open_lock, calls = output_folder._open_lock, []

    def raced(hidden: Path) -> int:
        calls.append(hidden)
        if len(calls) == 1:  # before the file is there
            hidden.rmdir()
        lock = open_lock(hidden)
        if len(calls) == 2:  # before it is locked
            (hidden / output_folder._LOCK).unlink()
            hidden.rmdir()
        return lock

    monkeypatch.setattr(output_folder, "_open_lock", raced)
    _written(tmp_path, "new")
    assert len(calls) == 3
    assert _found(tmp_path) == dict.fromkeys(NAMES, "new")
    assert not _hidden(tmp_path)


def test_a_disk_without_locks_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    (tmp_path / ".plasticine-theirs").mkdir()
    _written(tmp_path, "new")
    assert _found(tmp_path) == dict.fromkeys(NAMES, "new")
    assert _hidden(tmp_path) == [".plasticine-theirs"]  # whose it is cannot be told


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failure_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    _written(tmp_path, "old", ("a",))
    for folder in (tmp_path, tmp_path / "new" / "results"):
        output = OutputFolder(folder, ["a", "b"])
        (output.__enter__() / "a").write_text("half")
        output.__exit__(error, error(), None)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert _found(tmp_path) == {"a": "old"}


def test_a_forgotten_file_is_an_error(tmp_path: Path) -> None:
    output = OutputFolder(tmp_path, ["a", "b"])
    (output.__enter__() / "a").write_text("1")
    refuses(RuntimeError, "not written: b", output.__exit__, None, None, None)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        refuses(NotADirectoryError, "is a file", OutputFolder(folder, ["a"]).__enter__)
    (tmp_path / "b").mkdir()
    refuses(IsADirectoryError, "in the way", OutputFolder(tmp_path, ["b"]).__enter__)
    assert (tmp_path / "file").read_text() == "kept"
    if Path("/proc/self").exists():
        with pytest.raises(OSError, match=r"/proc/plasticine: cannot write there"):
            OutputFolder("/proc/plasticine", ["a"]).__enter__()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    refuses(PermissionError, "cannot write there", OutputFolder(tmp_path, ["a"]).__enter__)
