"""Reading a recipe's images: arrays of an .npz file, single files, or a user's folders."""

from __future__ import annotations

import contextlib
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from plasticine.io import (
    LEAST_BODY,
    READABLE_SUFFIXES,
    body_share,
    files_in,
    model_images,
    read_volume,
)
from plasticine.nn.body import body_mask
from plasticine.training.data import Domains, Images, crop_to, unpaired
from plasticine.training.recipe import Data, Domain, DomainImages, Names, Recipe

_LABELS = "_labels"
_LARGEST_LABEL = 2**24  # up to which float32 holds every whole number

Progress = Callable[[str, int, int], None]
"""Called as (what is read, files done, files in all)."""


def load_domains(
    recipe: Recipe,
    folder: Path | None,
    seed: int,
    *,
    source: Path | None = None,
    target: Path | None = None,
    source_labels: Path | None = None,
    target_labels: Path | None = None,
    progress: Progress | None = None,
) -> Domains:
    """Read the images of a recipe, or those of a user's folders, each domain in random order.

    A recipe's images are below ``folder``, as its ``data`` table names them.

    Args:
        recipe: the recipe.
        folder: the data folder; not needed with folders of a user's own.
        seed: of the shuffle.
        source: a folder whose files replace the recipe's source images.
        target: likewise; both or neither.
        source_labels: a folder with the label map of each file in ``source``: of the file's
            name, or of that name followed by "_labels"; it may be the same folder.
        target_labels: likewise; both or neither.
        progress: called after each file.

    Raises:
        FileNotFoundError: a file or folder is not there, or a folder holds no image.
        ValueError: images are not what the recipe needs.
    """
    data = recipe.data
    if (source is None) != (target is None):
        raise ValueError("--source and --target replace a recipe's images together; got one")
    _check_label_folders(source, source_labels, target_labels)
    own_folders: dict[Domain, tuple[Path | None, Path | None]] = {
        "source": (source, source_labels),
        "target": (target, target_labels),
    }
    domains: dict[str, Images] = {}
    for domain, (own, labels) in own_folders.items():
        if own is not None:
            files = _with_label_files(own, labels)
            size = data.size or data.crop
            domains[domain] = _read_files(files, domain, recipe, size, LEAST_BODY, None, progress)
        else:
            domains[domain] = _read_own(recipe, folder, domain, progress)
    if source is None and data.held_out:
        domains = _without(domains, data.held_out)
    for name, found in domains.items():
        if len(found.images) == 0:
            raise ValueError(f"the {name} holds no image that is not nearly empty")
    if domains["source"].images.shape[2:] != domains["target"].images.shape[2:]:
        shapes = [tuple(domains[name].images.shape[2:]) for name in ("source", "target")]
        raise ValueError(
            f"the domains' images must have one size; got {shapes[0]} and {shapes[1]}: "
            "give the recipe a size in [data]"
        )
    return unpaired(domains["source"], domains["target"], seed)


def _check_label_folders(source: Path | None, *labels: Path | None) -> None:
    if labels.count(None) == 1:
        raise ValueError("--source-labels and --target-labels are needed together; got one")
    if source is None and None not in labels:
        raise ValueError(
            "--source-labels and --target-labels belong to images in --source and --target; "
            "a recipe names the label maps of its own images in [data]"
        )


def _without(domains: dict[str, Images], held_out: Sequence[str]) -> dict[str, Images]:
    """The images whose subject is not held out."""
    unknown = set(held_out)
    left = {}
    for domain, found in domains.items():
        if found.subjects is None:
            raise ValueError(f"held_out needs to know whose the images of the {domain} are")
        unknown -= set(found.subjects)
        kept = ~np.isin(found.subjects, held_out)
        labels = None if found.labels is None else found.labels[kept]
        left[domain] = Images(found.images[kept], found.subjects[kept], labels)
    if unknown:
        raise ValueError(f"held_out: no image is of {', '.join(sorted(unknown))}")
    return left


def _with_label_files(folder: Path, labels: Path | None) -> list[tuple[Path, Path | None]]:
    """The image files of a folder, each with its label map in the folder ``labels``."""
    if labels is None:
        return [(path, None) for path in files_in(folder)]
    there = {subject_of(path): path for path in files_in(labels)}
    same = folder.resolve() == labels.resolve()
    found: list[tuple[Path, Path | None]] = []
    for path in files_in(folder):
        subject = subject_of(path)
        if same and subject.endswith(_LABELS):
            continue
        names = [f"{subject}{_LABELS}"] if same else [subject, f"{subject}{_LABELS}"]
        files = [there[name] for name in names if name in there]
        if len(files) != 1:
            raise ValueError(
                f"{path} needs one label map in {labels}: expected a file named "
                f"{' or '.join(names)}, found {len(files)}"
            )
        found.append((path, files[0]))
    return found


def subject_of(path: Path) -> str:
    """A file's name without its suffix, which names its subject."""
    name = path.name.lower()
    suffix = max((s for s in READABLE_SUFFIXES if name.endswith(s)), key=len, default="")
    return path.name[: len(path.name) - len(suffix)]


def _read_own(
    recipe: Recipe, folder: Path | None, domain: Domain, progress: Progress | None
) -> Images:
    """A recipe's own images of a domain."""
    data, named = recipe.data, recipe.data.of(domain)
    if folder is None:
        raise ValueError(
            "a recipe's own images need a data folder (--data or PLASTICINE_DATA); got none"
        )
    if data.file is not None:
        return _read_arrays(folder / data.file, named, data, recipe.model.ndim)
    labels = [None if name is None else folder / name for name in _or_none(named, named.labels)]
    files = list(zip([folder / name for name in named.names], labels, strict=True))
    return _read_files(files, domain, recipe, data.size, data.foreground, named, progress)


def _or_none(named: DomainImages, option: Names | None) -> Sequence[str | None]:
    """The option of each array or file; None for each where it is not given."""
    return option or [None] * len(named.names)


def _read_arrays(path: Path, named: DomainImages, data: Data, ndim: int) -> Images:
    if not path.is_file():
        raise FileNotFoundError(f"no training data at {path}: set PLASTICINE_DATA to its folder")
    assert data.maximum is not None  # as the recipe has checked
    parts, subjects = [], []
    with _archive(path) as archive:
        for key, labels, patients, subject in zip(
            named.names,
            _or_none(named, named.labels),
            _or_none(named, named.patients),
            _or_none(named, named.subjects),
            strict=True,
        ):
            volumes = [v / data.maximum for v in _stack(archive, key, path, ndim)]
            if any(not ((v >= 0) & (v <= 1)).all() for v in volumes):
                raise ValueError(
                    f"{key!r} of {path}: expected values of 0 to {data.maximum:g}, the recipe's "
                    "maximum"
                )
            names: Sequence[Any] = [subject or ""] * len(volumes)
            if patients is not None:
                names = _patients(archive, patients, archive[key].shape, path)
            if labels is not None:
                maps = _stack(archive, labels, path, ndim)
                volumes = [_joined(*pair, labels) for pair in zip(volumes, maps, strict=True)]
            for volume, name in zip(volumes, names, strict=True):
                images, kept = _select(volume, data.foreground, named)
                parts.append(images)
                subjects.append(np.broadcast_to(name, len(volume))[kept])
    known = named.patients is not None or named.subjects is not None
    images = crop_to(torch.cat(parts), data.crop)
    return _parted(images, np.concatenate(subjects) if known else None)


@contextlib.contextmanager
def _archive(path: Path) -> Iterator[Any]:
    """The arrays of an .npz file by their names.

    Raises:
        ValueError: it is none, or it is damaged.
    """
    try:
        with zipfile.ZipFile(path):  # else NumPy takes the file for an array, or for a pickle
            pass
        archive = np.load(path)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise zipfile.BadZipFile("it begins as a single array")
        with archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, tokenize.TokenError) as error:
        raise ValueError(f"{path}: expected an .npz file of arrays: {error}") from error


def _array(archive: Any, key: str, path: Path) -> np.ndarray:
    if key not in archive:
        raise ValueError(f"{path} holds no array {key!r}; it holds {', '.join(archive)}")
    return archive[key]


def _patients(archive: Any, key: str, shape: tuple[int, ...], path: Path) -> list[Any]:
    """The subject of each volume of an array of this shape, or of each image of its one stack."""
    names = _array(archive, key, path).astype(str)
    if names.shape != shape[:1]:
        raise ValueError(
            f"{key!r} of {path} must name the subject of each of {shape[0]} images; "
            f"its shape is {names.shape}"
        )
    return list(names) if len(shape) == 4 else [names]


def _stack(archive: Any, key: str, path: Path, ndim: int) -> list[Tensor]:
    """An array's volumes: (slices, 1, *spatial) of a 2D model, (1, 1, *spatial) of a 3D one."""
    stack = _array(archive, key, path)
    if stack.ndim not in (ndim + 1, 4):
        raise ValueError(
            f"{key!r} of {path} is not a stack of {ndim}D images: its shape is {stack.shape}"
        )
    volumes = torch.from_numpy(stack).float()
    if ndim == 3:
        return list(volumes[:, None, None])
    return list(volumes[:, :, None]) if stack.ndim == 4 else [volumes[:, None]]


def _joined(images: Tensor, labels: Tensor, name: object) -> Tensor:
    """Images and label map as two channels, so that both are cut and turned together."""
    if labels.shape != images.shape:
        raise ValueError(
            f"{name}: expected a label map of the images' shape {tuple(images.shape)}, "
            f"got {tuple(labels.shape)}"
        )
    if (labels != labels.round()).any() or labels.abs().max() > _LARGEST_LABEL:
        raise ValueError(f"{name}: expected labels, whole numbers of at most {_LARGEST_LABEL}")
    return torch.cat([images, labels.to(images.dtype)], 1)


def _parted(joined: Tensor, subjects: np.ndarray | None) -> Images:
    """What ``_joined`` joined, or images alone, within [-1, 1]."""
    labels = joined[:, 1:].int() if joined.shape[1] == 2 else None
    return Images(joined[:, :1] * 2 - 1, subjects, labels)


def _select(
    images: Tensor, foreground: float, named: DomainImages | None
) -> tuple[Tensor, np.ndarray]:
    """What a domain's options leave of some images (n, 1, *spatial) within [0, 1], and of which.

    A second channel, the label map, goes with them.
    """
    kept = np.arange(len(images))
    if named is not None and named.slices is not None:
        first, stop = named.slices
        axis = 0 if images.ndim == 4 else 2
        if stop > images.shape[axis]:
            raise ValueError(
                f"slices [{first}, {stop}] are not within the {images.shape[axis]} there are"
            )
        images = images.narrow(axis, first, stop - first)
        kept = kept[first:stop] if axis == 0 else kept
    if named is not None and named.flip:
        images = images.flip([2 + axis for axis in named.flip])
    if named is not None and named.body is not None:
        body = body_mask(images[:, :1], **named.body.model_dump())
        images = torch.cat([images[:, :1] * body, images[:, 1:]], 1)
    enough = body_share(images[:, :1]) >= foreground
    return images[enough], kept[enough.numpy()]


def _read_files(
    files: Sequence[tuple[Path, Path | None]],
    domain: str,
    recipe: Recipe,
    size: Sequence[int] | None,
    foreground: float,
    named: DomainImages | None,
    progress: Progress | None,
) -> Images:
    card = recipe.card.model_dump(exclude_none=True) | {"ndim": recipe.model.ndim}
    if domain == "target" and "target_normalisation" in card:
        card["normalisation"] = card["target_normalisation"]
    parts = []
    for done, (path, labels) in enumerate(files, start=1):
        laid = model_images(read_volume(path), card)
        whole = laid.images if labels is None else _joined(laid.images, laid.labels(labels), labels)
        images, _ = _select(whole, foreground, named)
        parts.append(images if size is None else fit(images, size))
        if progress is not None:
            progress(f"reading {domain}", done, len(files))
    shapes = {tuple(part.shape[2:]) for part in parts}
    if len(shapes) > 1:
        raise ValueError(
            f"the {domain} images differ in size ({', '.join(map(str, sorted(shapes)))}): "
            "give the recipe a size in [data]"
        )
    names = [subject_of(path) for path, _ in files]
    return _parted(torch.cat(parts), np.repeat(names, [len(part) for part in parts]))


def fit(images: Tensor, size: Sequence[int]) -> Tensor:
    """The images cut or padded with 0 about their middle to a spatial size.

    Raises:
        ValueError: size has another number of axes.
    """
    if len(size) != images.ndim - 2:
        raise ValueError(f"size {list(size)} does not suit images of {tuple(images.shape[2:])}")
    padding: list[int] = []
    for n, wanted in zip(reversed(images.shape[2:]), reversed(size), strict=True):
        missing = max(0, wanted - n)
        padding += [missing // 2, missing - missing // 2]
    return crop_to(functional.pad(images, padding), size)
