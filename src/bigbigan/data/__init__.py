"""Load images: a SOURCE string -> splits -> pixels; every skipped image and every conversion is counted."""

from bigbigan.data.decode import DecodeLimits, decode
from bigbigan.data.formats import Unreadable
from bigbigan.data.image_set import ImageSet, Source, fraction_of
from bigbigan.data.inspect import inspect
from bigbigan.data.loading import fingerprint, load_pixels, load_view, quick_fingerprint
from bigbigan.data.shards.writer import write_shards
from bigbigan.data.sources import open_source

__all__ = [
    "DecodeLimits",
    "ImageSet",
    "Source",
    "Unreadable",
    "decode",
    "fingerprint",
    "fraction_of",
    "inspect",
    "load_pixels",
    "load_view",
    "open_source",
    "quick_fingerprint",
    "write_shards",
]
