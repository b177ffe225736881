"""A trace as a notebook shows it: pictures of a slice, and a table."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from plasticine.report.document import table

if TYPE_CHECKING:
    from plasticine.translation import Trace

_HEIGHT = 200
"""Pixels, of each picture."""


def trace_in_html(trace: Trace) -> str:
    """Pictures of the slice with the most to see, and what the trace measured.

    Args:
        trace: of images of two or three axes.

    Returns:
        HTML that needs nothing else.
    """
    source = _slices(trace.source)
    index = int(np.argmax((source > 0.05).sum((1, 2))))
    jacobian = _slices(trace.jacobian)[index]
    most = max(0.1, float(np.abs(jacobian - 1).max()))
    pictures = {
        "source": _grey(source[index]),
        "warped": _grey(_slices(trace.warped)[index]),
        "translated": _grey(_slices(trace.translated)[index]),
        "Jacobian": _coloured((jacobian - 1) / most, "RdBu_r"),
        "residual": _coloured(_slices(trace.residual)[index] / 0.3, "PuOr_r"),
    }
    figures = "".join(
        f'<figure style="margin:0"><img alt="{name}" height="{_HEIGHT}" '
        f'src="data:image/png;base64,{_png(picture)}"><figcaption>{name}</figcaption></figure>'
        for name, picture in pictures.items()
    )
    lengths = trace.displacement.norm(dim=1)
    agreement = trace.structure_agreement
    rows = [
        ("images", " × ".join(str(n) for n in trace.source.shape)),
        ("model", trace.model.get("name")),
        ("folds", f"{int(trace.folding.folds.sum())} (J ≤ 0, {trace.folding.scheme} differences, "
         f"{trace.folding.region} region)"),
        ("Jacobian det ∇φ", f"{float(trace.folding.minimum.min()):.3f} to "
         f"{float(trace.folding.maximum.max()):.3f}"),
        ("displacement", f"mean {float(lengths.mean()):.2f}, most {float(lengths.max()):.2f} "
         "voxels"),
        ("|φ⁻¹(φ(p)) - p|", f"mean {float(trace.inverse_consistency.mean()):.4f} voxels"),
        ("residual, mean absolute", float(trace.residual.abs().mean())),
        ("structure agreement", None if agreement is None else float(agreement.mean())),
        ("seconds", trace.seconds),
    ]  # fmt: skip
    return (
        f'<div><div style="display:flex;gap:6px;flex-wrap:wrap">{figures}</div>'
        f"{table(f'Trace, slice {index} of {len(source)}', rows)}</div>"
    )


def _slices(images: Any) -> NDArray[np.float32]:
    """``(N, rows, columns)`` of ``(N, 1, *spatial)``: of volumes, slices along the first axis."""
    found: NDArray[np.float32] = images.detach().cpu().float().numpy()
    return found.reshape(-1, *found.shape[-2:])


def _grey(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    return (255 * np.clip(np.nan_to_num(image), 0, 1)).astype(np.uint8)


def _coloured(image: NDArray[Any], colours: str) -> NDArray[np.uint8]:
    """Of values from -1 to 1."""
    shares = np.clip(np.nan_to_num(image) / 2 + 0.5, 0, 1)
    return (255 * matplotlib.colormaps[colours](shares)[..., :3]).astype(np.uint8)


def _png(picture: NDArray[np.uint8]) -> str:
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()
