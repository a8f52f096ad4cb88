"""Prepare the data of a training run: settings that depend on it, the batches, and the data card."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from bigbigan.config import Config
from bigbigan.data import ImageSet, Source, quick_fingerprint
from bigbigan.data.batches import Batches
from bigbigan.data.held_out import held_out_fifth, holds_out_fifth, places_of
from bigbigan.data.image_set import FileStore
from bigbigan.data.loading import measure_window, stored_side, typical_side
from bigbigan.data.sources import relative_source
from bigbigan.data.streaming import StreamedPixels, training_pixels
from bigbigan.data.window import Window
from bigbigan.errors import UserError
from bigbigan.image import way_to_resize
from bigbigan.training import distributed
from bigbigan.training.run_folder import has_trained, read_card, read_config
from bigbigan.training.seal import key_file, seal

__all__ = ["TrainingData", "load_training_data", "refuse_other_data", "resolve_config"]


@dataclass(frozen=True)
class TrainingData:
    """Hold the training images of a run.

    Attributes:
        source: the source of the images.
        images: the images that are trained on: of the training split, or of a fraction of it, those that are readable,
            as far as that is known before training.
        batches: batches of these images.
        card: the data card, as written to data.json.
    """

    source: Source
    images: ImageSet
    batches: Batches
    card: dict[str, Any]

    def close(self) -> None:
        """End the threads that decode images."""
        if isinstance(self.batches.pixels, StreamedPixels):
            self.batches.pixels.close()


def resolve_config(config: Config, source: Source, images: ImageSet, spec: str, run: Path) -> Config:
    """Return `config` with the settings that depend on the data: window, mirroring, padding, and the classes.

    A run that has begun to train keeps the values in its config.json. Window and padding are set in `source`.
    """
    d = config.data
    recorded = read_config(run).data if has_trained(run) else None
    if config.can_mirror and d.mirror == "auto":
        by_source: Literal["always", "never"] = "always" if source.mirrorable else "never"
        d = replace(d, mirror=by_source if recorded is None else recorded.mirror)
    if d.pad == "auto":
        d = replace(d, pad=_padding(images, config) if recorded is None else recorded.pad)
    source.set_padding(d.pad)
    if d.window_percentiles and not d.window:
        known = () if recorded is None else recorded.window
        d = replace(d, window=known or measure_window(source, images, d.window_percentiles))
        source.set_window(Window(*d.window))
    if d.labels == "classes":
        sizes = _class_sizes(images, spec)
        classes = len(sizes)
        if recorded is not None and len(recorded.class_sizes) in (0, classes):
            sizes = recorded.class_sizes  # empty in a run of an earlier version, which drew labels evenly
        equal = not config.has_generator or len(set(sizes)) == 1
        d = replace(d, classes=classes, class_sizes=() if equal else sizes)
    return replace(config, data=d)


def _padding(images: ImageSet, config: Config) -> Literal["auto", "always", "never"]:
    """Return what is done with squares a little smaller than R; "auto" if it makes no difference to these images."""
    if not config.data.augment.endswith("_crop"):  # crops: E sees the centre of files and all of the rows of an array
        side = typical_side(images)
        if way_to_resize((side, side), config.encoder.resolution, pad=True) != "padded":
            return "auto"
    return "always" if images.store.pads else "never"


def _class_sizes(images: ImageSet, spec: str) -> tuple[int, ...]:
    """Return the number of training images of each class."""
    labels = np.empty(0, dtype=np.int64) if images.labels is None else images.labels
    found = len(images.classes or ())
    if found < 2:
        raise UserError(f"--data {spec} has no labels of two or more classes; data.labels=classes needs them, or none")
    if without := int((labels < 0).sum()):
        raise UserError(f"{without:,} of {len(images):,} training images have no label; data.labels=classes needs all")
    return tuple(np.bincount(labels, minlength=found).tolist())


def load_training_data(
    config: Config, source: Source, images: ImageSet, spec: str, run: Path, device: torch.device, progress: bool
) -> TrainingData:
    """Read the training images onto the device as uint8, or prepare to decode them as needed if they are too large.

    Args:
        config: resolved settings.
        source: as opened from `spec`.
        images: of the source, to train on.
        spec: the source as it was given, for messages and the data card.
        run: the run folder; a run that is continued keeps the size its images were stored at.
        device: the device to train on.
        progress: whether to show a progress bar.

    Raises:
        UserError: there are too few images, or ranks have different ones, or validation would fetch too many.
    """
    d, first = config.data, distributed.is_first_rank()
    if "supervised" in config.pretext.tasks and holds_out_fifth(source):  # evaluation tests on the other images
        images = images.subset(np.sort(places_of(held_out_fifth(source.splits["train"])[0], images)))
    side = distributed.maximum(_recorded_side(run) if first else 0)
    side = side or stored_side(images, config.encoder.resolution, d.augment)
    with distributed.busy("reading images"):
        pixels, kept, fingerprint = training_pixels(
            images,
            side,
            d.channels,
            source,
            d.memory_gib,
            device,
            progress and first,
            d.shuffle_shards,
            distributed.world_size(),
        )
    if len(pixels) < 2:
        raise UserError(f"--data {spec}: {len(pixels)} images are too few to train on")
    if config.log.validate_every and isinstance(pixels, StreamedPixels) and pixels.shards is not None:
        raise UserError(
            f"--data {spec}: log.validate_every={config.log.validate_every} needs images of the whole set and would "
            "fetch every shard each time; set log.validate_every=0, or raise data.memory_gib until all fit in memory"
        )
    if first and isinstance(pixels, torch.Tensor):
        _warn_of_dark(pixels, spec)
    readable = images.subset(kept)
    batches = Batches(
        pixels,
        config.training.batch_size,
        config.training.seed,
        d.augment,
        config.encoder.resolution,
        labels=torch.as_tensor(readable.labels, device=device) if d.labels == "classes" else None,
        mirror=d.mirrors,
        chunks=config.training.accumulate,
    )
    card = _data_card(config, spec, source, images, run, len(pixels), side, fingerprint)
    if not distributed.same_on_all_ranks(fingerprint):
        raise UserError(f"--data {spec}: the processes of torchrun find different images there; copy them again")
    return TrainingData(source, readable, batches, card)


def _warn_of_dark(pixels: torch.Tensor, spec: str) -> None:
    """Warn if most images have no pixel that is brighter than a tenth of white."""
    sample = pixels[:: -(-len(pixels) // 1000)].flatten(1)
    dark = int((sample.amax(1) < 26).sum())
    if dark > len(sample) / 2:
        warnings.warn(
            f"--data {spec}: {dark:,} of {len(sample):,} images are nearly black, as images of 12 bits are without a "
            "window of values; see: bigbigan data inspect",
            stacklevel=2,
        )


def _recorded_side(run: Path) -> int:
    """Return the side that the images of a continued run are stored at, on which its crops depend; 0 for a new run."""
    return int(read_card(run).get("side", 0)) if _has_card(run) else 0


def _has_card(run: Path) -> bool:
    """Return whether a run has begun to train, and records its data; the record of a failed first start is void."""
    return has_trained(run) and (run / "data.json").exists()


def _data_card(
    config: Config, spec: str, source: Source, images: ImageSet, run: Path, count: int, side: int, fingerprint: str
) -> dict[str, Any]:
    """Return the data card of a run, sealed by rank 0; warn if it cannot be sealed."""
    card = {
        "spec": spec,
        "from_run": relative_source(spec, run),
        "name": source.name,
        "images": count,
        "side": side,
        "fingerprint": fingerprint,
        "glance": quick_fingerprint(source.splits["train"]),
        "classes": images.classes,
        "labels": None
        if source.labels is None
        else asdict(source.labels) | {"from_run": relative_source(source.labels.path, run)},
        "skipped": source.skipped,
        "notes": source.notes,
        "code": list(config.own_code),
    }
    first = distributed.is_first_rank()
    card["seal"] = seal(card) if first else ""
    if first and not card["seal"]:
        warnings.warn(f"no key can be stored in {key_file()}: commands will ask for --data", stacklevel=2)
    return card


def refuse_other_data(run: Path, data: TrainingData, uses_classes: bool, uses_labels: bool) -> None:
    """Raise UserError if the run in the folder `run` was started on other images, or with another labels file.

    Args:
        run: the run folder.
        data: the data to continue with.
        uses_classes: whether the networks use classes; their names and their order must not change either.
        uses_labels: whether anything in the run depends on the labels file: the networks, or validation.
    """
    if not _has_card(run):
        return
    recorded, card = read_card(run), data.card
    if recorded.get("fingerprint") != card["fingerprint"]:
        raise UserError(
            f"the images are not those {run} was trained on ({recorded.get('spec')}); "
            "continue with the same --data, or choose another --out"
        )
    old_labels, new_labels = recorded.get("labels") or {}, card["labels"] or {}
    if old_labels.get("sha256") != new_labels.get("sha256") and uses_labels:
        old, new = (f"those of {of['path']}" if of else "the source's own" for of in (old_labels, new_labels))
        if old == new:
            new = "others in a file of that name"
        raise UserError(
            f"the labels of {run} were {old}, now they are {new}; "
            "continue with the same --labels, or choose another --out"
        )
    classes = data.images.classes
    if uses_classes and classes is not None:
        from_folders = isinstance(data.images.store, FileStore) and card["labels"] is None
        default = sorted(classes) if from_folders else classes  # before it was recorded, folders were in this order
        if recorded.get("classes", default) != classes:
            raise UserError(
                f"the classes of {run} differ from the {len(classes)} of this data, or are in another order; "
                "choose another --out"
            )
