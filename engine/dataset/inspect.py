"""Inspect a dataset for its contents and problems: :func:`inspect_dataset`.

Masks count (``has_masks``) if at least one object in twenty, crowds aside, has one: a stray polygon in a file of boxes
does not require a mask teacher. Polygons that only repeat the boxes do not count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from engine.dataset.checks.problems import ProblemLog, too_many
from engine.dataset.coco_scan import OnBlock, Opened, Scan
from engine.dataset.dataset_statistics import Counts
from engine.dataset.export_layouts import find_single_split, find_splits
from engine.dataset.file_names import FileNames
from engine.dataset.images.digest import together
from engine.dataset.images.folder import ImageFolder
from engine.dataset.split_statistics import SplitCounts
from engine.dataset.splits.comparison import Picture, SplitComparison
from engine.dataset.splits.leaks import Grouping
from engine.dataset.splits.split_files import SplitFiles, is_image
from engine.dataset.types import DatasetInfo, FilesRead
from engine.spec import Crowds, DatasetSpec
from engine.storage import Storage, default_cache, parent
from engine.storage import name as name_of

POINTERS = 20
"""Maximum percentage of images that are Git LFS pointers: they are left out when opened."""


def inspect_dataset(
    annotations: str | Path,
    images: str | Path | None = None,
    *,
    storage: Storage | None = None,
    crowds: Crowds = Crowds.IGNORE,
) -> DatasetInfo:
    """Inspect a COCO dataset: its contents and its problems.

    The file is streamed: memory does not grow with the size of an annotation. Images are listed, not opened. If masks
    take many megabytes, a sample is compared with the boxes, and all of them if one of the sample contradicts its box.

    Args:
        annotations: COCO instances JSON, or the folder of a Roboflow, CVAT or Label Studio export; s3:// or path.
        images: Folder of the images; default: searched next to the annotations.
        storage: Access to object storage; default: from the environment.
        crowds: Treat annotations with ``iscrowd: 1`` as ignore regions or as objects.

    Raises:
        DataError: It contains no COCO dataset.
        StorageError: It cannot be read.
    """
    store = storage or Storage()
    splits = find_splits(str(annotations), str(images) if images is not None else None, storage=store)
    return inspect_splits(splits, source=str(annotations), storage=store, crowds=crowds)


def inspect_request(dataset: DatasetSpec, *, storage: Storage, fingerprint: bool = True) -> DatasetInfo:
    """Inspect the data of a request: one file, an export, or splits given separately.

    Training needs the images: it is an error if none of them exists.

    Args:
        dataset: Data section of the request.
        storage: Access to the data.
        fingerprint: Digest the images too, for a run id: files on disk are read once for it.
    """
    splits, source = splits_of_request(dataset, storage=storage)
    return inspect_splits(
        splits,
        source=source,
        storage=storage,
        fingerprint=fingerprint,
        crowds=dataset.crowds,
        grouping=Grouping.optional(dataset.group_by),
    )


def splits_of_request(dataset: DatasetSpec, *, storage: Storage) -> tuple[dict[str, SplitFiles], str]:
    """Return the files of each split of a request, and the name of the data.

    Raises:
        DataError: It contains no COCO dataset.
        StorageError: It cannot be read.
    """
    if dataset.annotations is not None:
        splits = find_splits(dataset.annotations, dataset.images, storage=storage)
        source = dataset.annotations
    else:
        splits = {}
        for name, split in (("train", dataset.train), ("val", dataset.val), ("test", dataset.test)):
            if split is not None:
                splits[name] = find_single_split(split.annotations, split.images or dataset.images, storage=storage)
        source = splits["train"].shown
    return {name: replace(split, images_expected=True) for name, split in splits.items()}, source


def inspect_splits(
    splits: Mapping[str, SplitFiles],
    *,
    source: str,
    storage: Storage,
    open_images: Callable[[Mapping[str, Scan], ProblemLog], Mapping[str, Opened]] | None = None,
    fingerprint: bool = False,
    crowds: Crowds = Crowds.IGNORE,
    pictures: Mapping[str, Picture] | None = None,
    grouping: Grouping | None = None,
) -> DatasetInfo:
    """Return one DatasetInfo for all splits; classes of the same name are the same class.

    Args:
        splits: Files by name of the split.
        source: URI or path given by the user.
        storage: Access to the data.
        open_images: Opens the images of all splits, logs their problems, and returns for each split what its images
            show; the split is then read again with these facts. With it, every mask is compared with its box.
        fingerprint: Digest the listed images.
        crowds: Treat crowds as ignore regions or as objects.
        pictures: Digests and thumbnails by URI, filled by ``open_images``.
        grouping: Rule of the user for images that belong together.
    """
    log, counts, digests, marks, images = ProblemLog(), Counts(), [], [], {}
    uris = {split.images for split in splits.values()}
    folders = {uri: ImageFolder(uri, storage=storage, cache=default_cache()) for uri in uris}
    names = {uri: folder.names for uri, folder in folders.items()}
    used: dict[str, set[str]] = {folder: set() for folder in names}
    seen = {} if pictures is None else pictures
    comparison = SplitComparison(folders, storage, marked=fingerprint, pictures=seen, grouping=grouping)
    read = partial(_read, storage=storage, crowds=crowds, thorough=open_images is not None)
    scans = {name: read(split, names[split.images]) for name, split in splits.items()}
    _log_missing_content(splits, {name: scan for name, (scan, _) in scans.items()}, folders, log)
    opened = {} if open_images is None else open_images({name: scan for name, (scan, _) in scans.items()}, log)
    for name, split in splits.items():
        scan, counted = scans.pop(name)
        if opened.get(name):
            scan, counted = read(split, names[split.images], opened=opened[name])
        class_names = scan.header.class_names(scan.log)
        counts.add_split(counted, scan.header, class_names, images_read=scan.images_listed)
        comparison.add(name, scan, counted, class_names)
        log.merge(scan.log)
        log.merge(counted.log)
        used[split.images].update(key for key in scan.keys if key is not None)
        digests.append(scan.digest)
        if fingerprint:
            marks.append(folders[split.images].fingerprint(scan.keys))
        images[name] = len(scan.header.images)
    for folder in names:
        if used[folder]:
            unlisted = sorted(key for key in names[folder].keys - used[folder] if is_image(key))
            log.add("unlisted_image", unlisted, count=len(unlisted))
    counts.report(log)
    comparison.report(log)
    info = counts.info(source=source, digest=together(digests), splits=images, log=log)
    info = info.model_copy(update={"files": _files_read(splits, source)})
    return info.model_copy(update={"images_digest": together(marks)}) if marks else info


def _log_missing_content(
    splits: Mapping[str, SplitFiles], scans: Mapping[str, Scan], folders: Mapping[str, ImageFolder], log: ProblemLog
) -> None:
    """Log splits without images, pointers of Git LFS in place of images, and annotations that were not read."""
    for name, scan in scans.items():
        if scan.images_listed and not scan.header.images:
            log.add("no_images_found", [splits[name].images])
        pointers = folders[splits[name].images].pointers(scan.keys)
        if too_many(len(pointers), len(scan.keys), POINTERS):
            log.add("git_lfs_pointer", pointers, count=len(pointers))
    unread = dict.fromkeys(key for split in splits.values() for key in split.unread)
    log.add("annotations_not_read", unread, count=len(unread))


def _files_read(splits: Mapping[str, SplitFiles], source: str) -> dict[str, FilesRead]:
    return {
        name: FilesRead(annotations=_relative(split.shown, source), images=_relative(split.images, source))
        for name, split in splits.items()
    }


def _relative(uri: str, source: str) -> str:
    """Return a path relative to the given folder, or to the folder of the given file; the whole URI if it is elsewhere.

    >>> _relative("s3://b/export/val/a.json", "s3://b/export/"), _relative("data/images", "data/a.json")
    ('val/a.json', 'images')
    """
    if uri.rstrip("/") == source.rstrip("/"):
        return name_of(uri)
    for folder in (source.rstrip("/"), parent(source)):
        if uri.startswith(f"{folder}/"):
            return uri.removeprefix(f"{folder}/")
    return "." if uri.rstrip("/") == parent(source) else uri


def _read(
    split: SplitFiles,
    names: FileNames,
    *,
    storage: Storage,
    crowds: Crowds,
    thorough: bool,
    opened: Opened | None = None,
) -> tuple[Scan, SplitCounts]:
    """Read one split; return the scan and its counts, each with a problem log."""
    scan = Scan(split, names=names, storage=storage, log=ProblemLog(), opened=opened, crowds=crowds, thorough=thorough)
    passes: list[SplitCounts] = []

    def start() -> OnBlock:
        passes.append(SplitCounts())
        return passes[-1].add

    scan.run(start)
    return scan, passes[-1]
