"""What a translation prints on the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from plasticine.io.translate import VolumeTrace
from plasticine.report.record import deformation_in_words, printable


def print_results(
    result: VolumeTrace,
    folder: Path,
    seconds: float,
    files: dict[str, str],
    console: Console | None = None,
) -> None:
    """Prints a table of what was done, and where it is.

    Args:
        result: The translation.
        folder: Where it was written.
        seconds: Time it took, with reading and writing.
        files: Name and meaning of each file written.
        console: Where to print; standard output if not given.
    """
    folding, lengths = result.folding, result.displacement_lengths
    count = result.source.shape[0]
    shape = " x ".join(str(n) for n in result.grid.input_shape)
    images = "image" if count == 1 else "slices"
    table = Table(title="Plasticine translation", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("input", f"{printable(result.volume.path)}: {count} {images} of {shape} voxels")
    model = result.trace.model
    named = ": ".join(model[k] for k in ("name", "title") if k in model)
    table.add_row("model", printable(named))
    if result.grid.resampled:
        model_shape = " x ".join(str(n) for n in result.grid.model_shape)
        table.add_row("model's grid", f"{model_shape}; results interpolated back")
    table.add_row("time", f"{seconds:.1f} s, of which {result.trace.seconds:.1f} s translating")
    table.add_row("deformation", deformation_in_words(result))
    table.add_row(
        "folds",
        f"{int(folding.folds.sum())} of {result.jacobian.numel():,} voxels "
        f"(J <= 0, {folding.scheme} differences, {folding.region} region)",
    )
    table.add_row(
        "Jacobian", f"{float(folding.minimum.min()):.3f} to {float(folding.maximum.max()):.3f}"
    )
    table.add_row(
        "displacement", f"mean {float(lengths.mean()):.2f} mm, max {float(lengths.max()):.2f} mm"
    )
    if result.uncertainty is not None:
        table.add_row(
            "uncertainty",
            f"the samples differ by {float(result.uncertainty.mean()):.4f} on average "
            f"(standard deviation), {float(result.uncertainty.max()):.3f} at most",
        )
    normalisation = result.normalisation
    if normalisation.clipped_below or normalisation.clipped_above:
        table.add_row(
            "clipped",
            f"{normalisation.clipped_below} voxels below {normalisation.low:g}, "
            f"{normalisation.clipped_above} above {normalisation.low + normalisation.divisor:g}"
            + (f" (percentile {normalisation.percentile:g})" if normalisation.percentile else ""),
        )
    for warning in result.domain_check["warnings"]:
        table.add_row("warning", warning)
    for note in result.volume.notes:
        table.add_row("note", printable(note))
    table.add_section()
    for name, meaning in files.items():
        table.add_row(name, meaning)
    show(table, folder / "trace.png", console)


def show(table: Table, page: Path, console: Console | None = None) -> None:
    """Prints a table of results, and where their page of pictures is."""
    # Names of files are shown as they are, be there brackets or colons in them.
    console = console or Console(highlight=False, markup=False, emoji=False)
    console.print(table)
    console.print(f"Pictures: {printable(page)}", soft_wrap=True)
