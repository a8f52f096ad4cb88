"""Sizes that the random crops of training and the central crop of evaluation share.

The crops are in `bigbigan.image.crops`; these are apart so that images can be read without torch.
"""

__all__ = ["CENTRAL", "STORED", "viewed_side"]

CENTRAL = 0.875  # share of the side that evaluation sees; training crops come from the whole image (tpu/resnet)
# Side of stored photographs, in multiples of R: with 2.5, 14 % of resnet_crop's crops are enlarged, and at most as many
# of the pretext tasks'; the others never.
STORED = {"resnet_crop": 2.5, "task_crop": 2.5, "square_crop": 2**0.5, "random_crop": 1 / CENTRAL}


def viewed_side(resolution: int, augment: str, pads: bool) -> int:
    """Return the side, in pixels, that evaluation resizes images to before it takes the central R × R pixels.

    After training on crops of photographs the centre is 87.5 % of the side, otherwise all of it.

    Args:
        resolution: R.
        augment: `data.augment`.
        pads: whether small squares are padded, as rows of arrays are: those were not cropped.
    """
    return round(resolution / CENTRAL) if augment.endswith("_crop") and not pads else resolution
