"""Images as tensors and arrays: value ranges, channels, sizes, crops, distances.

Tensors are float [N, C, H, W] in [-1, 1] or uint8; arrays are uint8 [H, W, C]. Random crops
are in `crops`, pictures of many images in `grid`.
"""

from bigbigan.image.convert import to_channels, to_float, to_grey, to_nearest_uint8, to_uint8
from bigbigan.image.distances import image_distances, reconstruction_distances
from bigbigan.image.resize import pool_to, resize, resize_square, way_to_resize

__all__ = [
    "image_distances",
    "pool_to",
    "reconstruction_distances",
    "resize",
    "resize_square",
    "to_channels",
    "to_float",
    "to_grey",
    "to_nearest_uint8",
    "to_uint8",
    "way_to_resize",
]
