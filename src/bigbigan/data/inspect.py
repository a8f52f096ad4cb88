"""Inspect a source before training on it: a summary of JSON types."""

import hashlib
import math
from collections import Counter
from itertools import combinations
from typing import Any

import numpy as np

from bigbigan.data.decode import DEEP_CHANNELS
from bigbigan.data.formats import Unreadable
from bigbigan.data.image_set import ArrayStore, ImageSet, Source
from bigbigan.data.loading import fingerprint, sample_values
from bigbigan.data.pillow_pixels import BLANK
from bigbigan.data.readers.folders import NOT_AN_IMAGE
from bigbigan.data.tiff import DEEP_COLOUR, INSTALL
from bigbigan.data.window import Sampler

__all__ = ["inspect"]

PICTURE_ENDINGS = (".svg", ".ico", ".icns", ".cur", ".eps", ".dds", ".qoi")  # ignored, as photographs have none of them
SAMPLED, VALUES = 1_000, 4_096  # images of a split, and values of each, that a window is advised from


def inspect(source: Source) -> dict[str, Any]:
    """Read every image of a source once and describe the source. Unreadable images are counted, and do not stop it.

    Returns:
        A dictionary of JSON types: `spec`, `name`, `splits` (each with `count`, `labelled`, `unlabelled` (number of
        images), `classes`, `sizes` as [width, height], `channels`, `without_colour` (grey images stored in colour),
        `unreadable`, `duplicates`, `fingerprint`), `shared` (images that two splits have in common, such as
        {"train, test": 3}), `copies` (names of identical images, a list for each image that there is more than once),
        `skipped_count`, `skipped` (of each, [file, reason]), `notes` and `remedies` (sentences that name settings to
        use). Images are duplicates if all their pixels are equal.
    """
    deep, refused = _sample(source)
    splits: dict[str, Any] = {}
    hashes: dict[str, dict[bytes, list[str]]] = {}
    for name, images in source.splits.items():
        splits[name], hashes[name] = _split(images, source)
    shared = {f"{a}, {b}": len(hashes[a].keys() & hashes[b].keys()) for a, b in combinations(hashes, 2)}
    same: dict[bytes, list[str]] = {}
    for found in hashes.values():
        for digest, files in found.items():
            same.setdefault(digest, []).extend(files)
    return {
        "spec": source.spec,
        "name": source.name,
        "splits": splits,
        "shared": {pair: n for pair, n in shared.items() if n},
        "copies": [files for files in same.values() if len(files) > 1],
        "skipped_count": len(source.skipped),
        "skipped": [[file, reason] for file, reason in source.skipped],
        "notes": dict(sorted(source.notes.items())),
        "remedies": _remedies(source, splits, deep, refused),
    }


def _sample(source: Source) -> tuple[Sampler, list[str]]:
    """Return `sample_values` of all splits; nothing if the source has a window, as then there is nothing to advise."""
    stores = [images.store for images in source.splits.values()]
    if any(store.limits.window for store in stores if not isinstance(store, ArrayStore)):
        return Sampler(VALUES), []
    picks = []
    for images in source.splits.values():
        picks += [(images, i) for i in range(0, len(images), max(1, -(-len(images) // SAMPLED)))]
    return sample_values(source, picks, VALUES)


def _remedies(source: Source, splits: dict[str, Any], deep: Sampler, refused: list[str]) -> list[str]:
    """Return sentences that name the settings for deep images, stacks and images of several sizes."""
    found = []
    if values := deep.percentiles((0, 0.1, 50, 99.9, 100)):
        lowest, black, middle, white, highest = values
        found.append(
            f"images of more than 8 bits have values from {lowest:g} to {highest:g} (median {middle:g}). By default "
            "their upper 8 bits are kept, and float and 32-bit images refused. To use a window of values, train with "
            f"--set data.window_percentiles=[0.1,99.9], or --set data.window=[{black:g},{white:g}]"
        )
    if any(reason.endswith(DEEP_CHANNELS) for reason in refused):
        found.append(
            "PNG files of 16-bit colour keep only their upper 8 bits, so they are nearly black if their values have 12 "
            "bits. With a window such files are refused: to use one, save them as TIFF"
        )
    if DEEP_COLOUR in refused:
        found.append(
            "TIFF files of 16-bit colour keep only their upper 8 bits, so they are nearly black if their values have "
            f"12 bits. To use a window of values: {INSTALL}, and inspect them again"
        )
    if stacks := source.notes["first of several frames"]:
        found.append(f"{stacks:,} files have several frames: --set data.frames=all makes each frame an image")
    if missing := sum("pip install" in reason for _, reason in source.skipped):
        first = next(reason for _, reason in source.skipped if "pip install" in reason)
        found.append(f"{missing:,} files cannot be read without another package: {first}")
    colour, grey = (
        sum(split["channels"]["colour"] for split in splits.values()),
        sum(split["without_colour"] for split in splits.values()),
    )
    if grey > 0.9 * colour:
        found.append(
            f"{grey:,} of {colour:,} colour images are grey: --set data.channels=1 trains faster on one channel"
        )
    for ending in PICTURE_ENDINGS:
        if count := source.notes[f"{NOT_AN_IMAGE} ({ending})"]:
            found.append(f"{count:,} {ending} files are pictures in a format that is not read: convert them to PNG")
    if blank := source.notes[BLANK]:
        found.append(f"all white, as white shapes on a transparent background: {blank:,}. Give them another background")
    copied = sum(split["duplicates"] for split in splits.values())
    if copied > sum(split["count"] for split in splits.values()) / 100:
        found.append(
            f"copies of other images: {copied:,}. Accuracies are too good if a copy of a test image was trained on. "
            "Remove them, or write a labels file by --groups GROUPS.csv: it keeps copies on one side of every split. "
            "Give it to the other commands as --labels GROUPS.csv"
        )
    for name, split in splits.items():
        share = split["unreadable"] / max(1, split["count"])
        if share > source.max_unreadable:
            larger = math.ceil(10 * share) / 10
            found.append(
                f"{share:.1%} of the images in '{name}' cannot be read, and training stops above "
                f"{source.max_unreadable:.0%}: repair or remove them"
                + (f", or train with --set data.max_unreadable={larger}" if larger < 1 else "")
            )
    sizes = [split["sizes"] for split in splits.values() if split["sizes"]]
    sides = [min(size[which]) for size in sizes for which in ("min", "max")]
    if sizes and max(sides) > 1.5 * min(sides):
        median = min(sizes[0]["median"])
        found.append(
            f"images have several sizes: the central square of each is resized to encoder.resolution, so objects "
            f"change their scale. If scale matters, cut them to one size first. Half of them have {median} px or more "
            "on their shorter side: choose an experiment whose encoder.resolution is not above it"
        )
    return found


def _split(images: ImageSet, source: Source) -> tuple[dict[str, Any], dict[bytes, list[str]]]:
    """Return one split's description, and the names of its images by the hash of their pixels."""
    sizes: Counter[tuple[int, int]] = Counter()
    channels: Counter[str] = Counter(grey=0, colour=0)
    without_colour = 0
    hashes: dict[bytes, list[str]] = {}
    for i, file in enumerate(images.files):
        try:
            array, notes = images.load_noted(i)
        except Unreadable as e:
            source.refuse(file, e)
            continue
        source.record(file, notes)
        height, width, depth = array.shape
        sizes[width, height] += 1
        channels["grey" if depth == 1 else "colour"] += 1
        without_colour += depth == 3 and bool((array == array[:, :, :1]).all())
        digest = hashlib.blake2b(array.tobytes(), digest_size=16, key=f"{array.shape}".encode()).digest()
        hashes.setdefault(digest, []).append(file)
    read = sizes.total()
    classes = None
    if images.labels is not None and images.classes is not None:
        counts = np.bincount(images.labels[images.labels >= 0], minlength=len(images.classes))
        classes = {c: int(k) for c, k in zip(images.classes, counts, strict=True)}
    described = {
        "count": len(images),
        "labelled": images.labels is not None,
        "unlabelled": len(images) if images.labels is None else int((images.labels < 0).sum()),
        "classes": classes,
        "sizes": _sizes(sizes) if read else None,
        "channels": dict(channels),
        "without_colour": without_colour,
        "unreadable": len(images) - read,
        "duplicates": read - len(hashes),  # copies beyond the first
        "fingerprint": fingerprint(images),
    }
    return described, hashes


def _sizes(sizes: Counter[tuple[int, int]]) -> dict[str, Any]:
    """Return the minimum, median and maximum of width and of height, and the most common size."""
    table = np.array([(w, h, n) for (w, h), n in sizes.items()])
    sides = [np.repeat(table[:, k], table[:, 2]) for k in (0, 1)]
    (width, height), count = sizes.most_common(1)[0]
    return {
        "min": [int(s.min()) for s in sides],
        "median": [int(np.median(s)) for s in sides],
        "max": [int(s.max()) for s in sides],
        "most_common": {"size": [width, height], "count": count},
        "different": len(sizes),
    }
