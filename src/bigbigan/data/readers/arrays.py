"""Read image sets that are rows of arrays: digits, idx files, npz files and the binary version of CIFAR-10.

Images are called `train/00042` and so on; class k is called "k". `load_pixels` pads them with zeros to a resolution a
little above their own (MNIST: 28 to 32), see `ArrayStore.pads`.
"""

import gzip
import hashlib
import zlib
from collections import Counter
from pathlib import Path

import numpy as np

from bigbigan.data.formats import EXTENSIONS
from bigbigan.data.image_set import MAX_MEMORY, ArrayStore, ImageSet, memory_free
from bigbigan.data.names import extension, listed, shown
from bigbigan.data.readers.folders import split_of
from bigbigan.errors import UserError

__all__ = ["CIFAR10_FILES", "digits", "open_cifar10", "open_idx", "open_npz"]

_Arrays = dict[str, tuple[np.ndarray, np.ndarray | None]]  # split: (uint8 [N, H, W, C], int64 [N] or None)


def _from_arrays(arrays: _Arrays, path: Path) -> dict[str, ImageSet]:
    highest = max((int(y.max()) for _, y in arrays.values() if y is not None and len(y)), default=-1)
    classes = [str(k) for k in range(highest + 1)]
    splits = {}
    for split, (pixels, labels) in arrays.items():
        if labels is not None and len(labels) != len(pixels):
            raise UserError(f"{shown(path)}: {split} has {len(labels):,} labels for {len(pixels):,} images")
        if pixels.size:
            files = [f"{split}/{i:05d}" for i in range(len(pixels))]
            labels = labels if labels is not None and (labels >= 0).any() else None
            names = classes if labels is not None else None
            splits[split] = ImageSet(split, files, labels, names, ArrayStore(pixels), np.arange(len(pixels)))
    if not splits:
        raise UserError(f"{shown(path)} contains arrays, but no images")
    return splits


def digits() -> dict[str, ImageSet]:
    """Open scikit-learn's digits: values 0..16 become round(x * 255 / 16).

    scikit-learn does not split them. Here, the images of each class are sorted by the sha256 of
    "bigbigan digits split 0: ROW", and the first fifth (rounded) is test. No random generator is used, so the split
    never changes. Files are named by their row in `load_digits`.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int64)
    order = [hashlib.sha256(f"bigbigan digits split 0: {i}".encode()).hexdigest() for i in range(len(labels))]
    test: list[int] = []
    for k in range(10):
        rows = sorted(np.flatnonzero(labels == k).tolist(), key=order.__getitem__)
        test += rows[: round(len(rows) / 5)]
    store, classes = ArrayStore(pixels), [str(k) for k in range(10)]
    return {
        split: ImageSet(split, [f"{split}/{i:05d}" for i in rows], labels[rows], classes, store, rows)
        for split, rows in (("train", np.setdiff1d(np.arange(len(labels)), test)), ("test", np.sort(test)))
    }


def _idx_file(folder: Path, part: str, what: str) -> Path | None:
    """Return the file train-images-idx3-ubyte in any of its spellings; None if there is none.

    Plain files come before .gz, and files of the folder before those of a folder in it, which may have the same name,
    or in MNIST/raw, where torchvision puts them. A folder that has anything else is not searched below.
    """
    places = [f"{part}-{what}"]
    if _has_only_idx(folder):
        places += [f"*/{part}-{what}", f"*/raw/{part}-{what}"]
    for place in places:
        for ending in ("", ".gz"):
            found = sorted(path for path in folder.glob(f"{place}[-.]idx?-ubyte{ending}") if path.is_file())
            if len({path.parent for path in found}) > 1:
                raise UserError(
                    f"{shown(folder)} has idx files in {listed([p.parent for p in found])}; give one of them"
                )
            if found:
                return found[0]
    return None


def _has_only_idx(folder: Path) -> bool:
    """Return whether a folder has no images, and no other folders than those of idx files."""
    for path in folder.iterdir():
        if path.is_dir() and path.name != "processed" and not path.name.startswith("."):
            if not any(path.glob("*[-.]idx?-ubyte*")) and not any(path.glob("raw/*[-.]idx?-ubyte*")):
                return False
        elif extension(path.name) in EXTENSIONS:
            return False
    return True


def open_idx(folder: Path) -> dict[str, ImageSet]:
    """Open train-images-idx3-ubyte, t10k-labels-idx1-ubyte.gz and so on in a folder; return {} if there are none."""
    arrays: _Arrays = {}
    for split, part in (("train", "train"), ("test", "t10k")):
        images, labels = _idx_file(folder, part, "images"), _idx_file(folder, part, "labels")
        if images is not None:
            arrays[split] = (
                _read_idx(images, dims=3)[..., None],
                _read_idx(labels, dims=1).astype(np.int64) if labels else None,
            )
    return _from_arrays(arrays, folder) if arrays else {}


def _read_idx(path: Path, dims: int) -> np.ndarray:
    """Read an idx file of unsigned bytes, whose length must match its header."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as f:
            header = f.read(4 + 4 * dims)
            if len(header) < 4 + 4 * dims or header[:4] != bytes((0, 0, 8, dims)):
                raise UserError(f"{shown(path)} is not an idx file of {dims} dimensions of unsigned bytes")
            shape = tuple(int.from_bytes(header[i : i + 4], "big") for i in range(4, len(header), 4))
            size = int(np.prod(shape, dtype=object))
            _check_size(path, "claims", size)
            data = bytearray()  # read in pieces: reading all at once would allocate what the header claims
            while len(data) <= size and (chunk := f.read(2**20)):
                data += chunk
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise UserError(f"{shown(path)} is damaged or cut short; delete it and get it again") from e
    if len(data) != size:
        word = "fewer" if len(data) < size else "more"
        raise UserError(f"{shown(path)} is damaged: it has {word} bytes than the {size:,} in its header")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def _check_size(path: Path, verb: str, size: int) -> None:
    if size > MAX_MEMORY:
        raise UserError(f"{shown(path)} {verb} {size / 2**30:,.0f} GiB, limit {MAX_MEMORY / 2**30:g}")
    if size > (free := memory_free()):
        available = f"this machine has {free / 2**30:.2g} GiB of memory free"
        raise UserError(f"{shown(path)} {verb} {size / 2**30:.2g} GiB, {available}; make it smaller, or write files")


def open_npz(path: Path, notes: Counter[str]) -> dict[str, ImageSet]:
    """Open an npz file with the keys train_images, train_labels and so on (as MedMNIST), or images and labels.

    Splits may have any of the spellings of `split_of`; images and labels are train. Labels are class numbers or one-hot
    rows; -1 and NaN mean no label. Arrays that are not used are noted.

    Raises:
        UserError: it cannot be read, has no images, or has two arrays of images for one split.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            sizes = {member.filename.removesuffix(".npy"): member.file_size for member in file.zip.infolist()}
            found: dict[str, list[str]] = {"train": [], "val": [], "test": []}
            for k in file.files:
                if k.endswith("_images") and (split := split_of(k.removesuffix("_images"))):
                    found[split].append(k)
            if twice := next((keys for keys in found.values() if len(keys) > 1), None):
                raise UserError(f"{shown(path)}: {' and '.join(map(shown, twice))} are one split; remove or rename one")
            if "images" in file.files and not found["train"]:
                found["train"] = ["images"]
            wanted = {split: keys[0] for split, keys in found.items() if keys}
            labels = {k: k.removesuffix("images") + "labels" for k in wanted.values()}
            names = ", ".join(map(shown, file.files[:8])) or "nothing"
            unused = [k for k in file.files if k not in {*labels, *labels.values()}]
            _check_size(path, "unpacks to", sum(sizes.get(k, 0) for k in (*labels, *labels.values())))
            read = [(s, file[k], file.get(labels[k])) for s, k in wanted.items()]
    except (OSError, MemoryError, UserError):
        raise
    except Exception as e:  # BadZipFile, zlib.error, ValueError, SyntaxError, ...
        why = "damaged, cut short, or it has Python objects, which are never unpickled"
        raise UserError(f"{shown(path)} is not a readable npz file: {why}") from e
    if not wanted:
        raise UserError(f"{shown(path)} contains {names}; expected train_images (and val_, test_) or images")
    if unused:
        notes[f"arrays not used: {', '.join(map(shown, unused[:8]))}{', ...' * (len(unused) > 8)}"] += len(unused)
    arrays: _Arrays = {}
    for split, x, y in read:
        shape = (*x.shape, 1) if x.ndim == 3 else x.shape
        if x.dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3):
            expected = "expected uint8 [N, H, W] or [N, H, W, 1 or 3]"
            raise UserError(f"{shown(path)}: {split} images are {x.dtype} {list(x.shape)}; {expected}")
        arrays[split] = (x.reshape(shape), None if y is None else _class_numbers(y, f"{shown(path)}: {split}", notes))
    return _from_arrays(arrays, path)


def _class_numbers(y: np.ndarray, where: str, notes: Counter[str]) -> np.ndarray | None:
    """Return the labels of an npz file as class numbers, int64 [N], -1 for no label.

    If images have several labels, return None and add a note.
    """
    if y.ndim == 2 and y.shape[1] > 1:
        if y.dtype.kind not in "iubf" or not (((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all()):
            notes["several labels per image: read without labels"] += 1
            return None
        notes["one-hot labels"] += 1
        return y.argmax(1).astype(np.int64)
    numbers = np.where(np.isnan(y), -1, y) if y.dtype.kind == "f" else y
    whole = y.dtype.kind in "iub" or (y.dtype.kind == "f" and (numbers == np.rint(numbers)).all())
    if not whole or (y.size and (numbers.min() < -1 or numbers.max() >= 1_000_000)):
        raise UserError(f"{where} labels are not class numbers 0, 1, 2, ... ({y.dtype})")
    numbers = numbers.reshape(-1).astype(np.int64)
    if unlabelled := int((numbers < 0).sum()):
        notes["without a label"] += unlabelled
    return numbers


CIFAR10_FILES = (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin")


def open_cifar10(batches: dict[str, bytes], path: Path) -> dict[str, ImageSet]:
    """Open the binary version of CIFAR-10: records of 1 label byte and 3 x 32 x 32 pixel bytes."""
    if missing := [n for n in CIFAR10_FILES if n not in batches]:
        raise UserError(f"{shown(path)} lacks {', '.join(missing)} of the binary version of CIFAR-10")
    for name, data in batches.items():
        if not data or len(data) % 3073:
            raise UserError(f"{shown(path)}: {name} is damaged: {len(data):,} bytes is not a multiple of 3,073")
    arrays: _Arrays = {}
    for split, names in (("train", CIFAR10_FILES[:5]), ("test", CIFAR10_FILES[5:])):
        records = np.frombuffer(b"".join(batches[n] for n in names), dtype=np.uint8).reshape(-1, 3073)
        pixels = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        arrays[split] = (pixels, records[:, 0].astype(np.int64))
    return _from_arrays(arrays, path)
