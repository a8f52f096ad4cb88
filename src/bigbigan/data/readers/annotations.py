"""Leave out masks and annotations, which lie next to the images of many data sets, and copies of the whole set."""

import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from bigbigan.data.image_set import Source
from bigbigan.data.names import listed

__all__ = ["ANNOTATION_FOLDERS", "IMAGE_FOLDERS", "warn_of_pairs", "without_annotations", "without_nested_copy"]

IMAGE_FOLDERS = {"images", "image", "imgs", "img", "jpegimages", "photos", "pictures", "rgb"}
ANNOTATION_FOLDERS = {"annotations", "annotation", "masks", "mask", "labels", "label", "trimaps", "groundtruth", "gt"}
ANNOTATION_FOLDERS |= {"segmentations", "segmentation", "segmentationclass", "segmentationobject"}

_MASK = re.compile(r"(.+?)[-_ ]?(?:mask|seg|segmentation|gt|groundtruth|ground_truth)(?:[-_ ]?\d+)?", re.IGNORECASE)

_MASK_WORDS = ANNOTATION_FOLDERS | {"seg", "semantic", "gts", "lbl", "lbls", "annotated", "target", "targets"}

MIN_PAIRS = 10  # files of the same name

Parts = tuple[str, ...]  # the folders and the name of a file


def without_annotations(names: list[Parts], source: Source) -> list[Parts]:
    """Return the names without masks and the like: in a folder of them next to one of images, or a.png's a_mask.png."""
    parents = {p[:k] for p in names for k in range(len(p) - 1) if p[k].lower() in IMAGE_FOLDERS}

    def folder(p: Parts) -> str:
        at = (
            k for k in range(len(p) - 1) if p[:k] in parents and re.sub(r"\W|_", "", p[k].lower()) in ANNOTATION_FOLDERS
        )
        return next((p[k] for k in at), "")

    skipped = Counter(filter(None, map(folder, names)))
    if skipped:
        source.notes["ignored, in a folder of annotations next to one of images"] += skipped.total()
        _warn(source, f"{skipped.total():,} images are skipped as masks or annotations: {listed(sorted(skipped))}")
        names = [p for p in names if not folder(p)]
    stems = {(*p[:-1], p[-1].rpartition(".")[0]) for p in names}
    masks = [p for p in names if (m := _MASK.fullmatch(p[-1].rpartition(".")[0])) and (*p[:-1], m[1]) in stems]
    if masks:
        source.notes["ignored, a mask of the image of that name"] += len(masks)
        examples = listed([p[-1] for p in masks], 2)
        _warn(source, f"{len(masks):,} images are skipped as masks of the images of the same names: {examples}")
        left_out = set(masks)
        names = [p for p in names if p not in left_out]
    return names


def without_nested_copy(names: list[Parts], source: Source) -> list[Parts]:
    """Return the names without those in a folder that has the folders of its parent once more: no/, yes/, set/no/."""
    below: dict[Parts, set[str]] = {}
    for p in names:
        for k in range(len(p) - 1):
            below.setdefault(p[:k], set()).add(p[k])
    copies = {
        (*parent, folder)
        for parent, folders in below.items()
        for folder in folders
        if len(folders) > 2 and below.get((*parent, folder)) == folders - {folder}
    }
    nested = [p for p in names if any(p[:k] in copies for k in range(1, len(p)))]
    if nested:
        source.notes["ignored, in a folder that has the other folders once more"] += len(nested)
        paths = ["/".join(copy) for copy in sorted(copies)]
        _warn(source, f"{len(nested):,} images are skipped: {listed(paths)} has the folders next to it once more")
        left_out = set(nested)
        names = [p for p in names if p not in left_out]
    return names


def warn_of_pairs(classes: Collection[str], files: Iterable[Sequence[str]], source: Source) -> None:
    """Warn if both of two classes have files of the same names: one may be of masks, or of copies.

    Names that only count, such as 1.jpg or img_001.png, say nothing, unless a class is called like masks.

    Args:
        classes: names of the classes.
        files: (class, ..., file name) of each image.
        source: named in the warning.
    """
    if len(classes) != 2:
        return
    stems: dict[str, set[str]] = {name: set() for name in classes}
    for of_class, *_, file in files:
        stems[of_class].add(file.rpartition(".")[0])
    first, second = stems.values()
    counted = len({re.sub(r"\d+", "", stem) for stem in first & second}) < 2
    words = {word for name in classes for word in re.split(r"[\W\d_]+", name.lower())}
    if counted and not words & _MASK_WORDS:
        return
    if len(first & second) >= max(MIN_PAIRS, 0.9 * max(len(first), len(second))):
        _warn(
            source,
            f"the classes {listed(sorted(classes))} have files of the same names; if one has masks or copies of the "
            "other's images, give the folder of images alone",
        )


def _warn(source: Source, text: str) -> None:
    warnings.warn(f"{source.spec}: {text}", stacklevel=5)
