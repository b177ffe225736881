"""What a stage reports at every step: a CSV file and, if asked for, TensorBoard."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, TextIO

from plasticine.io.checks import named_errors
from plasticine.nn.output_folder import OutputFolder


class StageLog:
    """Appends a row a step to ``<stage>.csv``: step, loss and its terms, learning rate, seconds.

    A stage that goes on from a checkpoint drops the rows of later steps first, so that no step
    is there twice. ``seconds`` counts the stage's time over all of its runs.

    Args:
        folder: where the file is; made if it is not there.
        stage: the stage's name.
        step: the step that the stage goes on from; 0 begins anew.
        tensorboard: also write events for TensorBoard, to ``<folder>/tensorboard/<stage>``.

    Raises:
        RuntimeError: TensorBoard is asked for and not installed.
        ValueError: the file is not a log of this stage.
    """

    def __init__(self, folder: Path, stage: str, step: int, *, tensorboard: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{stage}.csv"
        self.columns: list[str] = []
        self.seconds = 0.0
        self._file: TextIO | None = None
        self._events: Any = _event_writer(folder, stage, step) if tensorboard else None
        self._keep(step)

    def close(self) -> None:
        """Close the files."""
        if self._file is not None:
            self._file.close()
        if self._events is not None:
            self._events.close()

    def write(self, step: int, values: dict[str, float], seconds: float) -> None:
        """Add a step.

        Args:
            step: its number, from 1.
            values: loss, terms and learning rate; of the same names at every step.
            seconds: what the step took.
        """
        self.seconds += seconds
        row = {"step": step, **values, "seconds": round(self.seconds, 3)}
        if self._file is None:
            self._file = self._open(list(row))
        csv.DictWriter(self._file, self.columns).writerow(row)
        self._file.flush()
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)

    def _open(self, columns: list[str]) -> TextIO:
        new = not self.columns
        if not new and self.columns != columns:
            raise ValueError(
                f"{self.path} is a log of other values: expected the columns {columns}, "
                f"got {self.columns}"
            )
        self.columns = columns
        file = self.path.open("a", newline="", encoding="utf-8")
        if new:
            csv.DictWriter(file, columns).writeheader()
        return file

    def _keep(self, step: int) -> None:
        """Leave only the rows up to ``step``."""
        if not self.path.exists():
            return
        if step == 0:
            self.path.unlink()
            return
        with named_errors(self.path):
            with self.path.open(newline="", encoding="utf-8") as file:
                header, *rows = [*csv.reader(file)] or [[]]
            if header[:1] != ["step"] or header[-1:] != ["seconds"]:
                raise ValueError(f"{self.path}: not a training log, its columns are {header}")
            # A killed run may have left half a row at the end, later than any checkpoint.
            kept = [row for row in rows if len(row) == len(header) and int(row[0]) <= step]
            seconds = float(kept[-1][-1]) if kept else 0.0
        with (
            OutputFolder(self.path.parent, [self.path.name]) as temporary,
            (temporary / self.path.name).open("w", newline="", encoding="utf-8") as file,
        ):
            csv.writer(file).writerows([header, *kept])
        self.columns = header
        self.seconds = seconds


def _event_writer(folder: Path, stage: str, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise RuntimeError(
            "TensorBoard is not installed: pip install 'plasticine[tensorboard]'"
        ) from error
    return SummaryWriter(folder / "tensorboard" / stage, purge_step=step + 1)  # type: ignore[no-untyped-call]
