"""Choose the images that several sections show, and encode them once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import nn

from bigbigan.data import ImageSet, Source, load_view
from bigbigan.data.held_out import has_labels, hold_out
from bigbigan.data.image_set import fraction_of
from bigbigan.evaluation.features import encoder_features
from bigbigan.evaluation.splits import View

__all__ = ["ShownImages", "shown_images"]

REFERENCES = 5_000  # maximum number of training images
UNSEEN = 1_000  # maximum number of other images


@dataclass
class ShownImages:
    """Hold a sample of training images (`known`) and of images to try them on (`unseen`), none in both.

    Attributes:
        title: what the unseen images are.
        split: the split they come from; None if they are training images.
        x, y: pixels of the unseen and of the known images, uint8 [N, C, R, R] as E sees them.
        total: number of training images of the source.
    """

    title: str
    split: str | None
    unseen: ImageSet
    x: np.ndarray
    known: ImageSet
    y: np.ndarray
    total: int
    encoder: nn.Module | None

    @cached_property
    def features(self) -> tuple[np.ndarray, np.ndarray]:
        """BN+CReLU features of the unseen and of the known images, float32 [N, d] each."""
        E = self.encoder
        assert E is not None
        unseen, known = (encoder_features(E, pixels)["bn_crelu"] for pixels in (self.x, self.y))
        return unseen, known


def shown_images(source: Source, view: View, encoder: nn.Module | None, fraction: float = 1.0) -> ShownImages:
    """Draw the images by a fixed seed. Unseen images are of the test or val split, or else held-out training images.

    Args:
        source: the images.
        view: the form in which they are loaded.
        encoder: finds neighbours, if there is one.
        fraction: the share of the training images that was trained on (`data.fraction`); the others are not shown.

    Raises:
        UserError: no image can be read.
    """
    # Read through a source of its own, so that the data card counts each image once.
    source = Source(source.spec, source.name, source.splits, max_unreadable=1.0)
    train = fraction_of(source.splits["train"], fraction)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(train))
    there = [name for name in ("test", "val") if name in source.splits]
    there.sort(key=lambda name: not has_labels(source.splits[name]))  # stable: as evaluation chooses
    split = next(iter(there), None)
    if split:
        title = f"Images of the {split} split"
        unseen = source.splits[split].subset(rng.permutation(len(source.splits[split]))[:UNSEEN])
    else:
        title = "Training images"
        count = min(UNSEEN, max(1, len(train) // 5))
        order, held_out = hold_out(len(train), count, 0, train.groups)
        unseen = train.subset(held_out[:UNSEEN])
    form = (view.resolution, view.channels, view.augment, source)
    x, kept = load_view(unseen, *form)
    unseen = unseen.subset(kept)
    known = train.subset(order[:REFERENCES])
    y, kept = load_view(known, *form)
    return ShownImages(title, split, unseen, x, known.subset(kept), y, len(train), encoder)
