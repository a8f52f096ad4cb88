"""Open a SOURCE string as named splits of images.

    digits                          1,797 images of 8x8, shipped with scikit-learn
    mnist  fashion-mnist  cifar10   from the cache, downloaded if absent; or NAME:PATH
    FOLDER                          images, flat; or one folder for each class; or train/ val/ test/ above those
    FILE.tar  .tar.gz  .tgz  .zip   such a folder, packed: read in place, never unpacked to disk
    FOLDER of idx files             train-images-idx3-ubyte and so on, plain or .gz
    FILE.npz                        MedMNIST keys {train,val,test}_{images,labels}, or images and labels
    part-{000..099}.tar             tar shards in WebDataset's layout; or the folder that `bigbigan data shard` wrote
    https://HOST/set/index.json     such a folder, remote; or https://HOST/part-{000..099}.tar; or pipe:COMMAND
    hf:OWNER/NAME  hf:NAME:SPLIT    a data set of Hugging Face, by name or folder
    python:MODULE:NAME              a data set of your own, in Python (bigbigan.data.readers.datasets)

A known name takes precedence over a folder of that name, with a warning: write ./mnist for the folder.

`open_source` chooses a reader (`folders`, `archives`, `shards` or `arrays`), which gives `Source.splits["train"]`, an
`ImageSet`, to be decoded by `load_pixels`. Anything that the user can correct is a `UserError` of one line.
"""

import difflib
import os
import re
import stat
import warnings
from pathlib import Path
from typing import Any

from bigbigan.data.decode import DecodeLimits
from bigbigan.data.formats import EXTENSIONS, Unreadable
from bigbigan.data.frames import expand_frames
from bigbigan.data.image_set import ArrayStore, ImageSet, Source, with_train
from bigbigan.data.labels import apply_labels
from bigbigan.data.labels_table import read_table
from bigbigan.data.names import extension, label_of, listed, shown
from bigbigan.data.readers.archives import list_tar, list_zip
from bigbigan.data.readers.arrays import CIFAR10_FILES, digits, open_cifar10, open_idx, open_npz
from bigbigan.data.readers.datasets import DatasetStore, is_python, open_datasets, open_python
from bigbigan.data.readers.download import REMOTE, cached
from bigbigan.data.readers.folders import Entry, arrange, list_folder
from bigbigan.data.readers.huggingface import open_huggingface
from bigbigan.data.shards.index import PROGRESS, is_index
from bigbigan.data.shards.pattern import expand, is_label, is_pattern, label_by_members
from bigbigan.data.shards.reader import open_pattern, open_remote, open_shards
from bigbigan.data.shards.remote import is_remote
from bigbigan.errors import UserError
from bigbigan.user_code import check_module, is_named

__all__ = ["absolute_source", "is_known", "open_source", "parse_spec", "relative_source", "source_exists"]

_NAMES = ("digits", *REMOTE)
_FASHION = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
_CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
_CLASSES = {"fashion-mnist": _FASHION, "cifar10": _CIFAR10}
_INNER = {  # paths within NAME's PATH that may contain the files
    "mnist": ("MNIST", "raw"),
    "fashion-mnist": ("FashionMNIST", "raw"),
    "cifar10": ("cifar-10-batches-bin", "cifar-10-binary.tar.gz", "cifar10-jpeg.tar.gz"),
}
# Data sets of digits, letters and garments, in any format.
_NOT_MIRRORED = {"digits", "mnist", "emnist", "kmnist", "qmnist", "svhn", "usps", "omniglot"}
_REMEDIES = (  # for files that are not read: endings, and what to do
    ((".7z", ".rar", ".xz", ".bz2", ".zst"), "unpack it"),
    ((".mp4", ".avi", ".mov", ".mkv", ".webm"), "cut it into images: ffmpeg -i FILE images/%06d.png"),
    ((".npy", ".mat", ".h5", ".hdf5", ".pt", ".pkl"), "save its images, uint8 [N, H, W, 3], by np.savez as images"),
    ((".parquet", ".arrow"), "open it by datasets.load_dataset, save it by save_to_disk, and give hf:FOLDER"),
    ((".csv", ".tsv", ".xlsx"), "labels go to --labels, and the folder of their images here"),
)
_LIMITS = DecodeLimits()


def open_source(
    spec: str,
    *,
    labels: str | Path | None = None,
    max_unreadable: float = 0.05,
    limits: DecodeLimits = _LIMITS,
    labelled: bool = True,
    dataset: Any = None,
) -> Source:
    """Open a SOURCE string (grammar: see the module): list its images, without decoding any.

    Args:
        spec: the value of `--data`.
        labels: a CSV file whose labels replace the source's own (bigbigan.data.labels).
        max_unreadable: the share of a split that may be unreadable before reading stops.
        limits: limits on the size of one image; and whether each frame of a stack is an image.
        labelled: False to open the images without labels; then folders are not classes.
        dataset: a map-style data set to open instead (bigbigan.data.readers.datasets); then `spec` is only its name.

    Raises:
        UserError: `spec` is not a source, or it has no images.
    """
    if not isinstance(max_unreadable, int | float) or not 0 <= max_unreadable <= 1:
        raise UserError(f"max_unreadable is a share between 0 and 1, not {max_unreadable!r}")
    if not isinstance(labels, str | os.PathLike | None):
        raise UserError(f"labels is a {type(labels).__name__}; expected the path of a CSV file, or None")
    table = None if labels is None else read_table(Path(labels))
    spec = str(spec)
    name, path = parse_spec(spec) if dataset is None else ("", Path(spec))
    base = re.sub(r"(?i)\.(npz|zip|tgz|tar|tar\.gz)$", "", os.path.basename(os.path.realpath(path or "")))
    source = Source(shown(spec), name or shown(base), {}, max_unreadable=max_unreadable)
    try:
        # Folders are classes unless the labels come from a file.
        classed = labelled and (bool(name) or table is None or not table.labelled)
        if dataset is not None or is_python(spec):
            source.name = shown(re.split("[:.]", spec)[-1])
            splits = open_python(spec, source, limits) if dataset is None else open_datasets(dataset, source, limits)
        elif spec.startswith("hf:"):
            splits = open_huggingface(spec, source, limits)
        elif is_remote(spec):
            splits = open_remote(spec, source, limits)
        elif is_pattern(spec):
            splits = open_pattern(spec, source, limits)
        else:
            splits = digits() if name == "digits" else _open_path(path or cached(name), name, source, limits, classed)
    except OSError as e:
        raise UserError(f"cannot read {source.spec}: {e.strerror or type(e).__name__}") from e
    splits = {split: images for split, images in splits.items() if len(images)}
    if not splits:
        raise UserError(f"no images in {source.spec}: every split of it is empty; give a source with images")
    source.splits = splits = with_train(splits, source)
    if limits.all_frames:
        expand_frames(source)
    source.mirrorable &= _mirrorable(source)
    for split, images in splits.items() if name else ():
        # All known data sets have ten classes: any other number means a wrong name.
        count = len(images.classes or ())
        if count != 10:
            have = f"{count} classes" if count else "no labels"
            raise UserError(f"{source.spec} is not {name}: expected 10 classes in '{split}', found {have}")
        if name in _CLASSES and images.classes == [str(k) for k in range(10)]:
            images.classes = list(_CLASSES[name])
    if table is not None:
        apply_labels(source, table)
    for images in () if labelled else source.splits.values():
        images.labels = images.classes = None
    if name and path is None and os.path.isdir(name):
        source.notes[f"the folder ./{name} is not used"] += 1
        warnings.warn(f"{name} is the known data set; for the folder of that name write ./{name}", stacklevel=2)
    _warn_of_empty_classes(source)
    _warn_of_similar_classes(source)
    _warn_of_no_label(source)
    return source


def _mirrorable(source: Source) -> bool:
    """Return whether mirror images are assumed to be as natural as the images.

    True for files and colour arrays. False for grey arrays, which are mostly digits, letters or X-rays, and for data
    sets known to be digits, letters or garments.
    """
    if _NOT_MIRRORED & set(re.split(r"[\W_]+", source.name.lower())):
        return False
    store = source.splits["train"].store
    if isinstance(store, DatasetStore):
        return store.channels == 3
    return not (isinstance(store, ArrayStore) and store.pixels.shape[-1] == 1)


def _warn_of_similar_classes(source: Source) -> None:
    """Warn of classes whose names differ only in case, in spaces, or in how a number is written."""
    by_meaning: dict[str | float, list[str]] = {}
    for name in source.splits["train"].classes or ():
        plain = " ".join(name.casefold().split())
        by_meaning.setdefault(float(plain) if re.fullmatch(r"-?\d+(\.\d+)?", plain) else plain, []).append(name)
    if similar := [names for names in by_meaning.values() if len(names) > 1]:
        pairs = listed([" and ".join(map(repr, names)) for names in similar])
        warnings.warn(f"{source.spec}: classes of nearly the same name are kept apart: {pairs}", stacklevel=3)


def _warn_of_empty_classes(source: Source) -> None:
    """Warn of classes that have no image in train: classes of other splits only, or unused numbers."""
    train = source.splits["train"]
    if train.labels is None or train.classes is None:
        return
    used = set(train.labels[train.labels >= 0].tolist())
    empty = [name for k, name in enumerate(train.classes) if k not in used]
    if empty and len(used) > 1:  # with one class, the normal images, the other splits add the anomalies
        source.notes["classes without a training image"] += len(empty)
        text = f"of {len(train.classes):,} classes train has no image of {listed(empty)}"
        warnings.warn(f"{source.spec}: {text}", stacklevel=3)


def _warn_of_no_label(source: Source) -> None:
    """Warn of classes whose name means "no label" in a labels file, as that of a folder may."""
    classes = next((images.classes for images in source.splits.values() if images.classes), [])
    if lost := [name for name in classes if not label_of(name)]:
        names = ", ".join(repr(shown(name)) for name in lost)
        warnings.warn(
            f"{source.spec}: {names} is a class here, but means no label in a labels file; rename it before labels "
            "are written to one (label-next, classify)",
            stacklevel=3,
        )


def _file_part(spec: str) -> tuple[str, str, str] | None:
    """Return (what precedes it, the path or pattern of paths, what follows it) of a SOURCE that names one; else None.

    They are ("mnist:", "data", "") or ("hf:", "./photos", ":train"). What follows hf: is a path if it begins as one or
    exists, and otherwise a name on the Hub.
    """
    head, colon, tail = spec.partition(":")
    if head == "hf":
        path, colon, split = tail.partition(":")
        is_path = path.startswith((".", "/", "~")) or (path and os.path.exists(path))
        return ("hf:", path, colon + split) if is_path else None
    if (colon and head in ("python", "dataset")) or is_remote(spec) or (head in _NAMES and not tail):
        return None
    return (head + colon, tail, "") if head in _NAMES else ("", spec, "")


def is_known(spec: str) -> bool:
    """Return whether a SOURCE is a known data set, such as mnist or mnist:PATH."""
    return spec.partition(":")[0] in _NAMES


def source_exists(spec: str) -> bool:
    """Return whether the file, folder or first shard that a SOURCE names exists; True if it names no path."""
    part = _file_part(spec)
    if part is None:
        return True
    path = os.path.expanduser(part[1])
    return os.path.exists(expand(path)[0] if is_pattern(path) else path)


def relative_source(spec: str, folder: Path) -> str | None:
    """Return a SOURCE with its path made relative to a folder; None if it names no path, or one on another drive."""
    part = _file_part(spec)
    if part is None:
        return None
    before, path, after = part
    try:
        path = os.path.relpath(os.path.abspath(os.path.expanduser(path)), os.path.realpath(folder))
    except ValueError:  # another drive of Windows
        return None
    if before == "hf:" and not path.startswith("."):
        path = f"./{path}"  # or else it would be a name on the Hub
    return before + path + after


def absolute_source(spec: str, folder: Path) -> str:
    """Return the SOURCE that `relative_source` made relative, with its absolute path."""
    part = _file_part(spec)
    if part is None:
        return spec
    before, path, after = part
    return before + os.path.normpath(os.path.join(os.path.realpath(folder), path)) + after


def parse_spec(spec: str) -> tuple[str, Path | None]:
    """Return (name of a known data set or "", path or None) of a SOURCE.

    Raises:
        UserError: it cannot be a source, such as a path where there is nothing.
    """
    packed = ".tar, .tar.gz, .tgz, .zip, .npz, part-{000..099}.tar"
    accepted = f"expected one of {', '.join(_NAMES)}, NAME:PATH, a folder, {packed}, hf:NAME or python:MODULE:NAME"
    if not spec.strip() or "\0" in spec:
        raise UserError(f"the data source is empty: {accepted}")
    head, colon, tail = spec.partition(":")
    if is_python(spec):
        if not is_named(spec):
            raise UserError(f"{shown(spec)}: expected python:MODULE:NAME, such as python:my_package.data:cells")
        check_module(spec)
        return "", Path(spec)
    if head == "hf" or is_remote(spec) or is_pattern(spec):
        return "", Path(spec)
    known = head in _NAMES
    if known and not colon:
        return head, None
    if head == "digits":
        raise UserError(f"digits comes with scikit-learn and takes no path: write 'digits', not {shown(spec)}")
    if known and not tail:
        raise UserError(f"{head}: has no path after the colon; write {head} or {head}:PATH")
    path = Path(os.path.expanduser(tail if known else spec))
    if not os.path.lexists(path):
        close = [] if known else difflib.get_close_matches(head.lower(), _NAMES, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise UserError(f"no such file or folder: {shown(path)}; {hint}{accepted}")
    return head if known else "", path


def _open_path(path: Path, name: str, source: Source, limits: DecodeLimits, classed: bool) -> dict[str, ImageSet]:
    """Open a path with the reader that its content needs. `name` is the known data set it should be, or ""."""
    mode = path.stat().st_mode  # follows links; the caller rewords an OSError (dangling link, loop)
    ending = extension(path.name)
    folder = stat.S_ISDIR(mode)
    names = set(os.listdir(path)) if folder else set()
    if folder:
        if is_index(path):
            return open_shards(path, source, limits)
        below = [inner for inner in _INNER.get(name, ()) if inner in names]
        if below and not any("-ubyte" in n for n in names):
            return _open_path(path / below[0], name, source, limits, classed)
        if splits := open_idx(path):
            return splits
        if "data_batch_1.bin" in names:
            return open_cifar10({n: (path / n).read_bytes() for n in CIFAR10_FILES if n in names}, path)
    if names & {"data_batch_1", "cifar-10-batches-py"} or path.name == "cifar-10-python.tar.gz":
        raise UserError(f"{shown(path)} is the pickled python version of CIFAR-10; get cifar-10-binary.tar.gz instead")
    labels: list[Entry] = []  # the members of a single shard in WebDataset's convention
    if folder:
        entries, read = list_folder(path, source, limits)
    elif not stat.S_ISREG(mode):
        raise UserError(f"{shown(path)} is neither a folder nor a file")
    elif ending == ".npz":
        return open_npz(path, source.notes)
    elif ending == ".zip":
        entries, read = list_zip(path, source, limits)
    elif ending in (".tar", ".tgz") or path.name.lower().endswith(".tar.gz"):
        entries, read = list_tar(path, source, limits, also=lambda name: name in CIFAR10_FILES or is_label(name))
        entries, labels = [e for e in entries if not is_label(e[0][-1])], [e for e in entries if is_label(e[0][-1])]
        files = {parts[-1]: handle for parts, handle in entries if not isinstance(handle, Unreadable)}
        if "data_batch_1.bin" in files:
            return open_cifar10({n: read(files[n]) for n in CIFAR10_FILES if n in files}, path)
    else:
        what = "is one image" if ending in EXTENSIONS else "is not a source"
        hint = next((f"; {remedy}" for endings, remedy in _REMEDIES if ending in endings), "")
        raise UserError(f"{shown(path)} {what}; expected a folder, .tar, .tar.gz, .tgz, .zip or .npz{hint}")
    if not entries:
        raise UserError(_nothing_in(path, name, names, source))
    splits = arrange(entries, read, source, limits, packed=not folder, classed=classed)
    alone = classed and list(splits) == ["train"] and splits["train"].labels is None  # no classes or splits by folder
    if alone and labels and (labelled := label_by_members(splits["train"], labels, read, source)) is not None:
        return {"train": labelled}
    source.notes.update(f"ignored, not an image ({extension(parts[-1])})" for parts, _ in labels)
    return splits


def _nothing_in(path: Path, name: str, names: set[str], source: Source) -> str:
    """Return the error message for a path without images: what it has instead, and what was expected."""
    if PROGRESS in names:
        return f"{shown(path)} has unfinished shards; run the same `bigbigan data shard` again to finish them"
    hint = "expected JPEG, PNG, WebP, BMP, TIFF, GIF or DICOM files"
    if source.notes["unsafe name in archive"]:
        hint = "its names begin with / or contain ..; unpack it, or pack it again: tar -C FOLDER -czf NAME.tar.gz ."
    elif packed := sorted(n for n in names if n.lower().endswith((".tar", ".tar.gz", ".tgz", ".zip", ".npz"))):
        hint = f"give one of its archives, such as {shown(path / packed[0])}, or shards as part-{{000..099}}.tar"
    elif name:
        hint = f"{name} needs {', '.join(REMOTE[name][1])}"
    notes = f" ({', '.join(f'{k}: {v}' for k, v in source.notes.items())})" if source.notes else ""
    return f"no images in {shown(path)}{notes}; {hint}"
