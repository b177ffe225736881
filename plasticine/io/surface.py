"""Surfaces: VTK's PolyData (``.vtk``, ``.vtp``), as 3D Slicer and ITK write them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasticine.io.checks import check_exists, named_errors
from plasticine.io.itk import LPS_TO_RAS
from plasticine.io.point_table import OUTSIDE

# 3D Slicer names the axes in the second line of a .vtk, and in field data of this name of a .vtp.
_SPACE = "SPACE"


@dataclasses.dataclass(frozen=True)
class Surface:
    """The points of a surface, and all else of it.

    Attributes:
        path: Where it was read from.
        places: ``(N, 3)``, along ITK's LPS+ axes.
        data: VTK's own object.
        title: The second line of a ``.vtk``.
        is_ras: Whether the file says that its points run along RAS+ axes.
    """

    path: Path
    places: NDArray[np.float64]
    data: Any
    title: str
    is_ras: bool

    def write(self, path: Path, places: NDArray[np.float64], outside: NDArray[np.bool_]) -> None:
        """Writes the same surface with other places, and an array "outside" of 0 and 1.

        Normals, which the deformation has turned, are left out. Points are written in float64.

        Args:
            path: ``.vtk`` or ``.vtp``.
            places: As many as there are, along LPS+ axes.
            outside: ``(N,)``, what to flag.

        Raises:
            OSError: The file cannot be written.
        """
        vtk = _vtk(self.path)
        written = vtk.poly_data()
        written.DeepCopy(self.data)
        points = vtk.points()
        own = places * LPS_TO_RAS if self.is_ras else places
        points.SetData(vtk.from_numpy(np.ascontiguousarray(own), deep=True))
        written.SetPoints(points)
        for attributes in (written.GetPointData(), written.GetCellData()):
            attributes.SetNormals(None)
        flags = vtk.from_numpy(outside.astype(np.uint8), deep=True)
        flags.SetName(OUTSIDE)
        written.GetPointData().AddArray(flags)
        writer = vtk.xml_writer() if path.suffix.lower() == ".vtp" else vtk.writer()
        if path.suffix.lower() != ".vtp":
            writer.SetHeader(self.title)
            writer.SetFileTypeToBinary()
        writer.SetInputData(written)
        writer.SetFileName(str(path))
        if not writer.Write():
            raise OSError(f"{path}: cannot be written")


def read_surface(path: Path) -> Surface:
    """Reads a surface.

    Args:
        path: ``.vtk`` or ``.vtp``. Its points are taken to run along LPS+ axes, as ITK and 3D
            Slicer write them, if it does not say ``SPACE=RAS`` as 3D Slicer does.

    Returns:
        Its points, and all else.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no PolyData, holds no points, or one that is NaN or infinite.
        RuntimeError: VTK is not installed.
    """
    check_exists(path)
    vtk = _vtk(path)
    is_xml = path.suffix.lower() == ".vtp"
    reader = vtk.xml_reader() if is_xml else vtk.reader()
    reader.SetFileName(str(path))
    with named_errors(path), _complaints(vtk) as said:
        if not is_xml and not reader.IsFilePolyData():
            raise ValueError(f"{path}: expected a surface, VTK's PolyData")
        if not is_xml:
            _check_whole(path)
        reader.Update()
        data = reader.GetOutput()
        if said.GetOutput() or not data.GetNumberOfPoints():
            raise ValueError(f"{path}: damaged, or a surface without points")
        places = vtk.to_numpy(data.GetPoints().GetData()).astype(np.float64)
    if not np.isfinite(places).all():
        raise ValueError(f"{path}: holds points that are NaN or infinite")
    title = "" if is_xml else reader.GetHeader()
    space = data.GetFieldData().GetAbstractArray(_SPACE)
    is_ras = "SPACE=RAS" in title or (space is not None and space.GetValue(0) == "RAS")
    return Surface(path, places * LPS_TO_RAS if is_ras else places, data, title, is_ras)


def _check_whole(path: Path) -> None:
    """Refuses text that ends among its points, of which VTK makes numbers of its own."""
    head, _, rest = path.read_bytes().partition(b"\nPOINTS ")
    if b"\nASCII" not in head:
        return
    count = int(rest.split(None, 1)[0]) if rest else 0
    words = rest.split(None, 3 * count + 2)  # the count and the type come first
    if len(words) < 3 * count + 2:
        raise ValueError(f"{path}: cut short, it holds {len(words) - 2} of {3 * count} coordinates")


@contextlib.contextmanager
def _complaints(vtk: _Vtk) -> Iterator[Any]:
    """Takes what VTK would write to stderr: of a file cut short it says nothing else."""
    window, taken = vtk.window(), vtk.window.GetInstance()
    vtk.window.SetInstance(window)
    vtk.logger.SetStderrVerbosity(vtk.logger.VERBOSITY_OFF)
    try:
        yield window
    finally:
        vtk.logger.SetStderrVerbosity(vtk.logger.VERBOSITY_INFO)  # what it is if nobody sets it
        vtk.window.SetInstance(taken)


@dataclasses.dataclass(frozen=True)
class _Vtk:
    """What is used of VTK."""

    window: Any
    logger: Any
    points: Any
    poly_data: Any
    reader: Any
    writer: Any
    xml_reader: Any
    xml_writer: Any
    from_numpy: Any
    to_numpy: Any


def _vtk(path: Path) -> _Vtk:
    """The package that reads a file, where it is installed."""
    try:
        from vtkmodules import vtkCommonCore, vtkCommonDataModel, vtkIOLegacy, vtkIOXML
        from vtkmodules.util import numpy_support
    except ImportError as error:
        raise RuntimeError(
            f"{path}: reading it needs VTK, which is not installed: "
            "pip install 'plasticine[surfaces]'"
        ) from error
    return _Vtk(
        window=vtkCommonCore.vtkStringOutputWindow,
        logger=vtkCommonCore.vtkLogger,
        points=vtkCommonCore.vtkPoints,
        poly_data=vtkCommonDataModel.vtkPolyData,
        reader=vtkIOLegacy.vtkPolyDataReader,
        writer=vtkIOLegacy.vtkPolyDataWriter,
        xml_reader=vtkIOXML.vtkXMLPolyDataReader,
        xml_writer=vtkIOXML.vtkXMLPolyDataWriter,
        from_numpy=numpy_support.numpy_to_vtk,
        to_numpy=numpy_support.vtk_to_numpy,
    )
