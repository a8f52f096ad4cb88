"""Tar shards with WebDataset's library: it reads ours, and we read those it writes."""

import io

import numpy as np
import pytest
from PIL import Image

from bigbigan.data import load_pixels, open_source, write_shards

wds = pytest.importorskip("webdataset", reason="webdataset is not installed: make test-interop")


def pictures(count=20):
    return [np.random.default_rng(i).integers(0, 255, (10, 10, 3), dtype=np.uint8) for i in range(count)]


def test_webdataset_reads_our_shards(tmp_path):
    for i, array in enumerate(pictures()):
        path = tmp_path / "photos" / "ab"[i % 2] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)
    source = open_source(str(tmp_path / "photos"))
    write_shards(source, tmp_path / "shards", count=6)
    pattern = f"{tmp_path}/shards/train/shard-{{000000..000003}}.tar"
    read = wds.WebDataset(pattern, shardshuffle=False).decode("rgb8").to_tuple("png", "cls", "__key__")
    found = {key: (array, label) for array, label, key in read}
    images = source.splits["train"]
    assert sorted(found) == [f"{i:08d}" for i in range(20)]
    for key, (array, label) in found.items():
        np.testing.assert_array_equal(array, images.load(int(key)))
        assert label == images.labels[int(key)]


def test_we_read_what_webdataset_writes(tmp_path):
    with wds.ShardWriter(f"{tmp_path}/part-%03d.tar", maxcount=7, verbose=0) as writer:
        for i, array in enumerate(pictures()):
            writer.write({"__key__": f"sample{i:05d}", "png": array, "cls": i % 3, "json": {"caption": "x"}})
    source = open_source(f"{tmp_path}/part-{{000..002}}.tar")
    images = source.splits["train"]
    assert images.labels.tolist() == [i % 3 for i in range(20)]
    np.testing.assert_array_equal(load_pixels(images, 10, 3)[0].transpose(0, 2, 3, 1), pictures())
    assert images.files[7] == "part-001/sample00007.png"
    assert not source.skipped


def test_jpegs_it_writes_stay_the_bytes_they_are(tmp_path):
    out = io.BytesIO()
    Image.fromarray(pictures(1)[0]).save(out, "JPEG")
    with wds.TarWriter(f"{tmp_path}/part-0.tar") as writer:
        for i in range(3):
            writer.write({"__key__": f"{i:03d}", "jpg": out.getvalue()})
    images = open_source(f"{tmp_path}/part-{{0..0}}.tar").splits["train"]
    assert images.store.raw(1) == out.getvalue()
