"""Reading a recipe's images: arrays of an .npz file, single files, or a user's folders."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
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
from plasticine.io.checks import named_errors
from plasticine.io.labels import whole_numbers
from plasticine.nn.body import body_mask
from plasticine.training.data import Domains, Images, crop_to, unpaired
from plasticine.training.recipe import Data, Domain, DomainImages, Names, Recipe

_LABELS = "_labels"

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
    there = defaultdict(list)
    for path in files_in(labels):
        there[subject_of(path)].append(path)
    same = folder.resolve() == labels.resolve()
    found: list[tuple[Path, Path | None]] = []
    for path in files_in(folder):
        subject = subject_of(path)
        if same and subject.endswith(_LABELS):
            continue
        names = [f"{subject}{_LABELS}"] if same else [subject, f"{subject}{_LABELS}"]
        files = [file for name in names for file in there.get(name, [])]
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
    parts, maps, subjects = [], [], []
    with named_errors(path):
        archive = np.load(path)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError(f"{path}: expected an .npz archive of arrays, got one array")
    with archive:
        for key, labels, patients, subject in zip(
            named.names,
            _or_none(named, named.labels),
            _or_none(named, named.patients),
            _or_none(named, named.subjects),
            strict=True,
        ):
            volumes = [v.float() / data.maximum for v in _stack(archive, key, path, ndim)]
            if any(not ((v >= 0) & (v <= 1)).all() for v in volumes):
                raise ValueError(
                    f"{key!r} of {path}: expected values of 0 to {data.maximum:g}, the recipe's "
                    "maximum"
                )
            names: Sequence[Any] = [subject or ""] * len(volumes)
            if patients is not None:
                names = _patients(archive, patients, archive[key].shape, path)
            label_maps: Sequence[Tensor | None] = [None] * len(volumes)
            if labels is not None:
                label_maps = _stack(archive, labels, path, ndim, labels=True)
                _check_alike(volumes, label_maps, labels)
            for volume, name, label_map in zip(volumes, names, label_maps, strict=True):
                images, chosen, kept = _select(volume, label_map, data.foreground, named)
                parts.append(images)
                maps.append(chosen)
                subjects.append(np.broadcast_to(name, len(volume))[kept])
    known = named.patients is not None or named.subjects is not None
    return Images(
        crop_to(torch.cat(parts), data.crop) * 2 - 1,
        np.concatenate(subjects) if known else None,
        _cat(None if chosen is None else crop_to(chosen, data.crop) for chosen in maps),
    )


def _array(archive: Any, key: str, path: Path) -> np.ndarray:
    if key not in archive:
        raise ValueError(f"{path} holds no array {key!r}; it holds {', '.join(archive)}")
    with named_errors(path):
        return np.asarray(archive[key])


def _patients(archive: Any, key: str, shape: tuple[int, ...], path: Path) -> list[Any]:
    """The subject of each volume of an array of this shape, or of each image of its one stack."""
    names = _array(archive, key, path).astype(str)
    if names.shape != shape[:1]:
        raise ValueError(
            f"{key!r} of {path} must name the subject of each of {shape[0]} images; "
            f"its shape is {names.shape}"
        )
    return list(names) if len(shape) == 4 else [names]


def _stack(archive: Any, key: str, path: Path, ndim: int, *, labels: bool = False) -> list[Tensor]:
    """An array's volumes: (slices, 1, *spatial) of a 2D model, (1, 1, *spatial) of a 3D one.

    Of the array's own type, or label maps in int64.
    """
    stack = _array(archive, key, path)
    if stack.ndim not in (ndim + 1, 4):
        raise ValueError(
            f"{key!r} of {path} is not a stack of {ndim}D images: its shape is {stack.shape}"
        )
    if labels:
        stack, notes = whole_numbers(stack, f"{path}: {key}")
        _warn(notes)
    volumes = torch.from_numpy(stack)
    if ndim == 3:
        return list(volumes[:, None, None])
    return list(volumes[:, :, None]) if stack.ndim == 4 else [volumes[:, None]]


def _check_alike(volumes: Sequence[Tensor], maps: Sequence[Tensor], name: object) -> None:
    """Refuses label maps of another shape than their images."""
    shapes = [[tuple(one.shape) for one in each] for each in (volumes, maps)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{name}: expected label maps of the images' shape {shapes[0][0]} "
            f"({len(volumes)} of them), got {len(maps)} of {shapes[1][0]}"
        )


def _warn(notes: Sequence[str]) -> None:
    """Says what is to be known of the reading of label maps, in one warning for all."""
    if notes:
        more = f" (and {len(notes) - 1} notes of other kinds or files)" if notes[1:] else ""
        warnings.warn(notes[0] + more, RuntimeWarning, stacklevel=2)


def _cat(maps: Iterable[Tensor | None]) -> Tensor | None:
    """Label maps in one tensor; None where the images have none."""
    there = [one for one in maps if one is not None]
    return torch.cat(there) if there else None


def _select(
    images: Tensor, labels: Tensor | None, foreground: float, named: DomainImages | None
) -> tuple[Tensor, Tensor | None, np.ndarray]:
    """What a domain's options leave of some images (n, 1, *spatial) within [0, 1], and of which.

    Their label maps, (n, 1, *spatial) int64, are cut and turned with them.
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
        labels = None if labels is None else labels.narrow(axis, first, stop - first)
        kept = kept[first:stop] if axis == 0 else kept
    if named is not None and named.flip:
        axes = [2 + axis for axis in named.flip]
        images = images.flip(axes)
        labels = None if labels is None else labels.flip(axes)
    if named is not None and named.body is not None:
        images = images * body_mask(images, **named.body.model_dump())
    enough = body_share(images) >= foreground
    labels = None if labels is None else labels[enough]
    return images[enough], labels, kept[enough.numpy()]


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
    parts, maps = [], []
    notes: list[str] = []
    for done, (path, label_path) in enumerate(files, start=1):
        laid = model_images(read_volume(path), card)
        labels = None
        if label_path is not None:
            labels, found = laid.labels(label_path)
            notes += found
        images, labels, _ = _select(laid.images, labels, foreground, named)
        parts.append(images if size is None else fit(images, size))
        maps.append(labels if labels is None or size is None else fit(labels, size))
        if progress is not None:
            progress(f"reading {domain}", done, len(files))
    shapes = {tuple(part.shape[2:]) for part in parts}
    if len(shapes) > 1:
        raise ValueError(
            f"the {domain} images differ in size ({', '.join(map(str, sorted(shapes)))}): "
            "give the recipe a size in [data]"
        )
    names = [subject_of(path) for path, _ in files]
    _warn(notes)
    subjects = np.repeat(names, [len(part) for part in parts])
    return Images(torch.cat(parts) * 2 - 1, subjects, _cat(maps))


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
