"""Tar shards: written whole or not at all, read like the set they were made of, and whatever else there is in tars."""

import gzip
import hashlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bigbigan.apps.train import train
from bigbigan.cli import main
from bigbigan.data import DecodeLimits, fingerprint, load_pixels, open_source, write_shards
from bigbigan.data.shards import reader as shards
from bigbigan.data.shards import writer as sharding
from bigbigan.data.shards.pattern import is_pattern
from bigbigan.data.window import Window
from bigbigan.errors import RunError, UserError
from tiny import tiny_config, write_npz


def noise(i, size=(24, 20)):
    return Image.fromarray(np.random.default_rng(i).integers(0, 255, (*size[::-1], 3), dtype=np.uint8))


@pytest.fixture
def photos(tmp_path):
    """40 photographs of two classes in two splits, as JPEG and PNG."""
    for i in range(40):
        split, name = ("test" if i % 4 == 3 else "train"), f"{i:02d}.{'jpg' if i % 3 else 'png'}"
        path = tmp_path / "photos" / split / f"class{i % 2}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise(i, (20 + i % 3, 24)).save(path)
    return tmp_path / "photos"


def write(spec, out, **settings):
    return write_shards(open_source(str(spec)), out, **settings)


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def refused(spec):
    with pytest.raises(UserError) as error:
        open_source(str(spec))
    assert "\n" not in str(error.value)
    return str(error.value)


# -- writing ------------------------------------------------------------------------------------------------


def test_shards_hold_the_files_byte_for_byte_with_their_labels(photos, tmp_path):
    written = write(photos, tmp_path / "out", count=7)
    assert written["splits"]["train"]["images"], written["splits"]["train"]["shards"] == (30, 5)
    assert sorted(contents(tmp_path / "out")) == [
        "index.json", "test/shard-000000.tar", "test/shard-000001.tar", *(f"train/shard-{i:06d}.tar" for i in range(5))
    ]  # fmt: skip
    source = open_source(str(photos)).splits["train"]
    seen = []
    for path in sorted((tmp_path / "out" / "train").iterdir()):
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                data, (key, _, ending) = tar.extractfile(member).read(), member.name.partition(".")
                if ending == "cls":
                    assert int(data) == source.labels[int(key)]
                else:
                    assert data == (photos / source.files[int(key)]).read_bytes()
                    assert source.files[int(key)].endswith(ending)
                    seen.append(int(key))
    assert sorted(seen) == list(range(30))
    assert seen != sorted(seen)  # shuffled


def test_the_index_counts_and_checksums(photos, tmp_path):
    write(photos, tmp_path / "out", count=7)
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert (index["name"], index["classes"], index["skipped"]) == ("photos", ["class0", "class1"], [])
    assert {split: s["images"] for split, s in index["splits"].items()} == {"train": 30, "test": 10}
    for shard in index["splits"]["train"]["shards"]:
        data = (tmp_path / "out" / shard["file"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard["size"], shard["sha256"])
        assert shard["images"] == len(shard["names"])


def test_a_shard_ends_before_it_grows_too_large(photos, tmp_path):
    write(photos, tmp_path / "out", size_mib=12 / 1024)
    sizes = [p.stat().st_size for p in (tmp_path / "out" / "train").iterdir()]
    assert len(sizes) > 3
    assert max(sizes) <= 12 * 1024
    write(photos, tmp_path / "small", size_mib=1e-6)  # then an image a shard
    assert len(list((tmp_path / "small" / "train").iterdir())) == 30


def test_unreadable_images_are_counted_and_listed(photos, tmp_path):
    (photos / "train" / "class0" / "04.jpg").write_bytes(b"\xff\xd8\xff and nothing")
    (photos / "test" / "class1" / "03.png").write_bytes(b"")
    written = write(photos, tmp_path / "out", count=7)
    assert written["splits"]["train"]["images"] == 29
    expected = [["train/class0/04.jpg", "damaged JPEG"], ["test/class1/03.png", "empty file"]]
    assert written["skipped"] == json.loads((tmp_path / "out" / "index.json").read_text())["skipped"] == expected
    assert len(open_source(str(tmp_path / "out")).splits["train"]) == 29


def test_camera_raw_files_are_refused_as_in_a_folder(photos, tmp_path):
    noise(1).save(photos / "train" / "class0" / "04.tif")
    (photos / "train" / "class0" / "04.tif").rename(photos / "train" / "class0" / "04.dng")  # its preview
    source = open_source(str(photos))
    load_pixels(source.splits["train"], 12, 3, source)
    written = write(photos, tmp_path / "out", count=7)
    assert written["skipped"] == [list(skipped) for skipped in source.skipped]
    assert written["skipped"] == [["train/class0/04.dng", "a camera's raw format (convert to PNG)"]]


def test_dicom_files_are_stored_as_they_are(photos, tmp_path, monkeypatch):
    data = bytes(128) + b"DICM and no more"
    (photos / "train" / "class0" / "00.dcm").write_bytes(data)
    read = lambda data, frame, window, alone, check: (np.full((4, 4, 1), len(data), np.uint8), ())  # noqa: E731
    monkeypatch.setattr(sys.modules["bigbigan.data.decode"], "read_dicom", read)
    assert write(photos, tmp_path / "out", count=7)["skipped"] == []
    for spec in (tmp_path / "out", tmp_path / "out" / "train" / "shard-{000000..000004}.tar"):
        images = open_source(str(spec)).splits["train"]
        assert sum((images.load(i) == len(data)).all() for i in range(len(images))) == 1


def test_a_split_of_nothing_readable_is_refused(photos, tmp_path):
    for path in photos.glob("test/*/*"):
        path.write_bytes(b"\xff\xd8\xff and nothing")
    with pytest.raises(UserError, match=r"none of the 10 images in 'test' can be read: .*damaged JPEG"):
        write(photos, tmp_path / "out")


KILLS = {  # where: what is replaced by something that dies at its third call
    "while a shard grows": (sharding._Tar, "add"),
    "before a shard has its name": (sharding.os, "replace"),
    "after it has its name, before it is noted": (sharding, "_record"),
}


@pytest.mark.parametrize("where", KILLS)
def test_a_restart_after_a_kill_writes_the_same_bytes(where, photos, tmp_path):
    write(photos, tmp_path / "whole", count=4)
    owner, name = KILLS[where]
    for _ in range(3):  # killed again and again
        child = os.fork()
        if child == 0:
            real, calls = getattr(owner, name), iter(range(10**6))

            def deadly(*arguments, real=real, calls=calls):
                if next(calls) == (12 if name == "add" else 3):
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments)

            setattr(owner, name, deadly)
            write(photos, tmp_path / "out", count=4)
            os._exit(1)  # not killed
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        for path in (tmp_path / "out").rglob("shard-*.tar"):  # whatever has its name is whole
            assert path.read_bytes() == (tmp_path / "whole" / path.relative_to(tmp_path / "out")).read_bytes()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("shard-*.tar")}
    assert before
    with open(tmp_path / "out" / "progress.jsonl", "a") as notes:
        notes.write('{"split": "tra')  # torn
    write(photos, tmp_path / "out", count=4)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    kept = [p for p, at in before.items() if p.stat().st_mtime_ns == at]
    assert len(kept) >= len(before) - 1  # the last may not have been noted


def test_finished_shards_are_kept_and_lost_ones_rewritten(photos, tmp_path, monkeypatch):
    write(photos, tmp_path / "whole", count=4)
    before = contents(tmp_path / "whole")
    monkeypatch.setattr(sharding, "_write_all", None)
    assert write(photos, tmp_path / "whole", count=4)["splits"]["train"]["shards"] == 8
    assert contents(tmp_path / "whole") == before
    monkeypatch.undo()
    monkeypatch.setattr(sharding, "write_index", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write(photos, tmp_path / "out", count=4)
    monkeypatch.undo()
    (tmp_path / "out" / "train" / "shard-000002.tar").unlink()
    write(photos, tmp_path / "out", count=4)
    assert contents(tmp_path / "out") == before


def test_unfinished_shards_are_no_source(photos, tmp_path):
    write(photos, tmp_path / "out", count=4)
    (tmp_path / "out" / "index.json").rename(tmp_path / "out" / "progress.jsonl")
    assert "out has unfinished shards; run the same `bigbigan data shard` again" in refused(tmp_path / "out")


def test_after_a_full_disk_the_same_command_continues(photos, tmp_path, monkeypatch):
    write(photos, tmp_path / "whole", count=4)
    calls = iter(range(100))

    def full(self, data, real=sharding._Tar._write):
        if next(calls) > 20:
            raise OSError(28, "No space left on device", str(self.path))
        real(self, data)

    monkeypatch.setattr(sharding._Tar, "_write", full)
    with pytest.raises(
        RunError, match=r"No space left on device; complete shards are kept, run the same command again to continue"
    ):
        write(photos, tmp_path / "out", count=4)
    assert not list((tmp_path / "out").rglob(".*"))
    monkeypatch.undo()
    write(photos, tmp_path / "out", count=4)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_full_disk_leaves_no_part_of_a_shard(photos, tmp_path):
    """Closing a file writes what is still in its buffer, and fails once more."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, 3_000))  # Python ignores SIGXFSZ: a larger file is an error
        try:
            write(photos, tmp_path / "out", count=10)
        except RunError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert list(contents(tmp_path / "out")) == ["progress.jsonl"]
    write(photos, tmp_path / "out", count=10)
    write(photos, tmp_path / "whole", count=10)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_images_that_changed_since_are_refused(photos, tmp_path):
    array, stack = tmp_path / "a.npz", tmp_path / "stack" / "a.tif"
    np.savez(array, images=np.zeros((4, 8, 8), np.uint8))
    stack.parent.mkdir()
    noise(1).save(stack, save_all=True, append_images=[noise(2)])
    packed = shutil.make_archive(str(tmp_path / "b"), "zip", photos)
    for number, source in enumerate((photos, array, Path(packed), stack.parent)):
        limits = DecodeLimits(all_frames=source == stack.parent)
        write_shards(open_source(str(source), limits=limits), tmp_path / str(number))
        write_shards(open_source(str(source), limits=limits), tmp_path / str(number))
        changed = {photos: photos / "train" / "class0" / "00.png", stack.parent: stack}.get(source, source)
        os.utime(changed, (1, 1))
        with pytest.raises(UserError, match="has shards of other images or settings"):
            write_shards(open_source(str(source), limits=limits), tmp_path / str(number))


def test_arguments_of_write_shards_are_checked(photos, tmp_path):
    source = open_source(str(photos))
    for given, message in (
        ({"resolution": 0}, "resolution is 0; expected a whole number of at least 1, or None"),
        ({"count": 0}, "count is 0; expected a whole number of at least 1, or None"),
        ({"count": 2.5}, "count is 2.5"),
        ({"size_mib": 0}, "size_mib is 0; expected a number above 0"),
        ({"size_mib": "1"}, "size_mib is '1'; expected a number above 0"),
    ):
        with pytest.raises(UserError, match=message):
            write_shards(source, tmp_path / "out", **given)
    with pytest.raises(UserError, match="out is 5; expected the path of a folder"):
        write_shards(source, 5)
    assert write_shards(source, str(tmp_path / "out"))["splits"]["train"]["images"] == 30


@pytest.fixture
def microscope(tmp_path):
    """Three files of 16 bits with values from 200 to 3,899."""
    (tmp_path / "cells").mkdir()
    for i in range(3):
        values = np.random.default_rng(i).integers(200, 3900, (16, 16), dtype=np.uint16)
        Image.fromarray(values).save(tmp_path / "cells" / f"{i}.png")
    return tmp_path / "cells"


def test_shards_of_a_resolution_use_the_window(microscope, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["data", "shard", str(microscope), "--out", str(out), "--resolution", "16", "--quiet"]
    assert main([*command, "--set", "data.window=[200,3900]"]) == 0
    assert "note: more than 8 bits, windowed: 3" in capsys.readouterr().out
    limits = DecodeLimits(window=Window(200, 3900))
    stored, files = open_source(str(out)).splits["train"], open_source(str(microscope), limits=limits).splits["train"]
    for i in range(3):
        np.testing.assert_array_equal(stored.load(i), files.load(i))
    assert main([*command, "--set", "data.window=[200,3000]"]) == 2
    assert "has shards of other images or settings" in capsys.readouterr().err


def test_shards_of_a_resolution_report_lost_bits(microscope, tmp_path):
    with pytest.warns(UserWarning, match="only the upper 8 bits of 3 deeper images are stored; to store a window"):
        written = write(microscope, tmp_path / "out", resolution=16)
    assert written["notes"]["16-bit scaled to 8"] == 3


def test_other_images_or_settings_and_other_folders_are_refused(photos, tmp_path):
    write(photos, tmp_path / "out", count=4)
    for change in ({"count": 5}, {"count": 4, "resolution": 16}):
        with pytest.raises(UserError, match="has shards of other images or settings"):
            write(photos, tmp_path / "out", **change)
    (photos / "train" / "class0" / "00.png").unlink()
    with pytest.raises(UserError, match="has shards of other images or settings"):
        write(photos, tmp_path / "out", count=4)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "index.json").write_text("[]")
    with pytest.raises(UserError, match="is not empty and has no shards"):
        write(photos, tmp_path / "thesis")
    (tmp_path / "thesis" / "index.json").unlink()
    with sharding._locked(tmp_path / "thesis"), pytest.raises(UserError, match="another process is writing"):
        write(photos, tmp_path / "thesis")


# -- reading what was written -------------------------------------------------------------------------------


def test_shards_read_like_the_set_they_were_made_of(photos, tmp_path):
    write(photos, tmp_path / "out", count=7)
    ours, theirs = open_source(str(tmp_path / "out")), open_source(str(photos))
    assert (ours.name, list(ours.splits)) == (theirs.name, list(theirs.splits))
    for split, images in ours.splits.items():
        other = theirs.splits[split]
        assert images.files == other.files
        assert images.classes == other.classes
        assert images.labels.tolist() == other.labels.tolist()
        assert fingerprint(images) == fingerprint(other)  # so a run begun on the files goes on with the shards
        np.testing.assert_array_equal(load_pixels(images, 12, 3, ours)[0], load_pixels(other, 12, 3, theirs)[0])
    assert (ours.notes, ours.skipped) == (theirs.notes, theirs.skipped) == ({}, [])


def test_shards_keep_the_groups_of_their_images(photos, tmp_path):
    rows = [f"{i:02d},c{i % 2},P{i // 8}" for i in range(0, 40, 2)]  # of half of the images
    (tmp_path / "l.csv").write_text("\n".join(["file,label,group", *rows]))
    grouped = open_source(str(photos), labels=tmp_path / "l.csv")
    write_shards(grouped, tmp_path / "out", count=7)
    for split, images in open_source(str(tmp_path / "out")).splits.items():
        assert images.groups.tolist() == grouped.splits[split].groups.tolist()
    (tmp_path / "l.csv").write_text((tmp_path / "l.csv").read_text().replace("P3", "P2"))
    with pytest.raises(UserError, match="has shards of other images or settings"):
        write_shards(open_source(str(photos), labels=tmp_path / "l.csv"), tmp_path / "out", count=7)
    path = tmp_path / "out" / "index.json"
    whole = json.loads(path.read_text())
    for groups in ([], [0], [-1] * 7, ["P1"] * 7):
        damaged = json.loads(path.read_text())
        damaged["splits"]["train"]["shards"][1]["groups"] = groups
        path.write_text(json.dumps(damaged))
        assert "index.json is damaged" in refused(tmp_path / "out")
        path.write_text(json.dumps(whole))


def test_shards_of_a_source_without_groups_have_none(photos, tmp_path):
    write(photos, tmp_path / "out", count=7)
    assert all(images.groups is None for images in open_source(str(tmp_path / "out")).splits.values())


def test_a_run_on_shards_of_arrays_equals_one_on_the_arrays(tmp_path):
    npz = write_npz(tmp_path / "rows.npz", side=7)  # smaller than the 8 px of the networks: padded, not resized
    write(npz, tmp_path / "out", count=20)
    weights = []
    for name, data in (("a", npz), ("b", tmp_path / "out")):
        train(tiny_config("training.steps=3"), str(data), tmp_path / name, progress=False)
        weights.append((tmp_path / name / "checkpoints" / "step-00000003" / "weights.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_shards_of_a_resolution_hold_the_pixels_of_training(photos, tmp_path):
    write(photos, tmp_path / "out", resolution=16)
    ours, theirs = (open_source(str(s)).splits["train"] for s in (tmp_path / "out", photos))
    assert ours.load(0).shape == (16, 16, 3)
    assert ours.files == theirs.files
    np.testing.assert_array_equal(load_pixels(ours, 16, 3)[0], load_pixels(theirs, 16, 3)[0])
    shutil.copytree(tmp_path / "out", tmp_path / "again")
    write(tmp_path / "again", tmp_path / "second", count=9)  # shards of shards
    np.testing.assert_array_equal(load_pixels(open_source(str(tmp_path / "second")).splits["train"], 16, 3)[0],
                                  load_pixels(theirs, 16, 3)[0])  # fmt: skip


def test_a_lost_or_cut_shard_loses_only_its_images(photos, tmp_path):
    write(photos, tmp_path / "out", count=10)
    lost, cut = (tmp_path / "out" / "train" / f"shard-00000{i}.tar" for i in (0, 1))
    lost.unlink()
    os.truncate(cut, 9_000)
    source = open_source(str(tmp_path / "out"), max_unreadable=0.9)
    _, kept = load_pixels(source.splits["train"], 12, 3, source)
    assert source.notes["cannot be read"] == len(source.skipped) == 30 - len(kept)
    reasons = [reason for _, reason in source.skipped]
    assert reasons.count("cannot be read (No such file or directory)") == 10
    assert 0 < reasons.count("cannot be read (shard cut short)") < 10
    assert len(kept) > 10


def test_an_image_that_changed_in_its_shard_is_unreadable(photos, tmp_path):
    write(photos, tmp_path / "out", count=10)
    sound = open_source(str(tmp_path / "out")).splits["train"]
    path, offset = tmp_path / "out" / "train" / "shard-000000.tar", int(sound.store.handles[0][1])
    data = bytearray(path.read_bytes())
    data[offset + 5] ^= 4
    path.write_bytes(data)
    source = open_source(str(tmp_path / "out"))
    with pytest.warns(UserWarning, match=r"1 of the 30 images in 'train' cannot be read and are skipped: "):
        load_pixels(source.splits["train"], 12, 3, source)
    assert [reason for _, reason in source.skipped] == ["cannot be read (changed since it was written to the shard)"]


def test_a_changed_label_of_an_index_is_reported(photos, tmp_path):
    write(photos, tmp_path / "out", count=10)
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    labels = index["splits"]["train"]["shards"][0]["labels"]
    labels[0] = 1 - labels[0]
    (tmp_path / "out" / "index.json").write_text(json.dumps(index))
    with pytest.warns(UserWarning, match=r"index.json: changed since it was written"):
        open_source(str(tmp_path / "out"))


@pytest.mark.parametrize("damage", ["lost", "cut short"])
def test_finished_work_that_was_damaged_is_reported(photos, tmp_path, damage):
    write(photos, tmp_path / "out", count=10)
    shard = tmp_path / "out" / "train" / "shard-000001.tar"
    os.truncate(shard, 9_000) if damage == "cut short" else shard.unlink()
    with pytest.raises(
        UserError, match=r"shard-000001.tar is damaged or missing; remove .*out, and run the same command"
    ):
        write(photos, tmp_path / "out", count=10)


@pytest.mark.parametrize("name", ["progress.jsonl", ".writing-1-progress.jsonl"])
def test_records_of_a_killed_process_stop_no_other(photos, tmp_path, name):
    """It died between the index and the removal of its records; or while it wrote the first of them."""
    write(photos, tmp_path / "whole", count=10)
    if name == "progress.jsonl":
        shutil.copytree(tmp_path / "whole", tmp_path / "out")
    else:
        (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text('{"size_mib"')
    write(photos, tmp_path / "out", count=10)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


INDEXES = {
    "cut short": lambda text: text[:-40],
    "of another version": lambda text: text.replace("bigbigan shards 1", "bigbigan shards 2"),
    "path out": lambda text: text.replace("train/shard-000000.tar", "../shard-000000.tar"),
    "absolute path": lambda text: text.replace("train/shard-000000.tar", "/etc/shard-000000.tar"),
    "split of another name": lambda text: text.replace('"test": {', '"../x": {'),
    "negative offset": lambda text: text.replace('"offsets": [512', '"offsets": [-512'),
    "huge offset": lambda text: text.replace('"offsets": [512', f'"offsets": [{10**30}'),
    "offset in words": lambda text: text.replace('"offsets": [512', '"offsets": ["512"'),
    "offset missing": lambda text: text.replace('"offsets": [512, ', '"offsets": ['),
    "label beyond the classes": lambda text: text.replace('"classes": ["class0", ', '"classes": ['),
    "no splits": lambda text: text.replace('"splits"', '"splitz"'),
    "unknown column": lambda text: text.replace('"positions"', '"evil"'),
    "no name": lambda text: text.replace('"name": "photos", ', ""),
    "no pads": lambda text: text.replace('"pads": false, ', ""),
    "name that is a list": lambda text: text.replace('"name": "photos"', '"name": []'),
    "skipped in numbers": lambda text: text.replace('"skipped": []', '"skipped": [[1, 2]]'),
    "deep": lambda text: text[:-2] + ', "x": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "pads in words": lambda text: text.replace('"pads": false', '"pads": "no"'),
    "no word on mirroring": lambda text: text.replace('"mirrorable": true, ', ""),
    "mirrorable in words": lambda text: text.replace('"mirrorable": true', '"mirrorable": "no"'),
    "nested too deeply": lambda text: text.replace('"skipped": []', '"skipped": ' + "[" * 10**5),
    "checksum of another kind": lambda text: text.replace('"sha256": "', '"sha256": "x'),
}  # fmt: skip


@pytest.mark.parametrize("damage", INDEXES)
def test_a_damaged_index_is_refused_in_one_line(damage, photos, tmp_path):
    write(photos, tmp_path / "out", count=15)
    path = tmp_path / "out" / "index.json"
    text = INDEXES[damage](path.read_text())
    assert text != path.read_text()
    path.write_text(text)
    assert "index.json is " in refused(tmp_path / "out")


def test_an_index_without_images_is_refused(photos, tmp_path):
    write(photos, tmp_path / "out", count=15)
    path = tmp_path / "out" / "index.json"
    index = json.loads(path.read_text())
    for split in index["splits"].values():
        for shard in split["shards"]:
            shard |= {column: [] for column in ("names", "offsets", "sizes", "labels", "positions", "crcs")}
    path.write_text(json.dumps(index))
    assert refused(tmp_path / "out").startswith(f"no images in {tmp_path / 'out'}: every split of it is empty")


def test_an_offset_beyond_the_shard_is_an_unreadable_image(photos, tmp_path):
    write(photos, tmp_path / "out", count=15)
    path = tmp_path / "out" / "index.json"
    path.write_text(path.read_text().replace('"offsets": [512', f'"offsets": [{2**40}', 1))
    source = open_source(str(tmp_path / "out"))
    assert len(load_pixels(source.splits["train"], 12, 3, source)[1]) == 29
    assert source.skipped[0][1] == "cannot be read (shard cut short)"


# -- anybody's shards ---------------------------------------------------------------------------------------


def encoded(i):
    out = io.BytesIO()
    noise(i).save(out, "PNG")
    return out.getvalue()


def pack(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def make(folder, label=lambda i: [("cls", str(i % 3).encode())], count=3, each=4):
    """part-0.tar and so on, whose samples have such further members."""
    folder.mkdir(exist_ok=True)
    for k in range(count):
        samples = range(k * each, (k + 1) * each)
        pack(folder / f"part-{k}.tar", [
            m for i in samples for m in [(f"{i:03d}.png", encoded(i)), *((f"{i:03d}.{e}", d) for e, d in label(i))]
        ])  # fmt: skip
    return folder / f"part-{{0..{count - 1}}}.tar"


LABELS = {
    "numbers": (lambda i: [("cls", f"{i % 3}\n".encode())], ["0", "1", "2"]),
    "json": (lambda i: [("json", json.dumps({"caption": "x", "label": i % 3}).encode())], ["0", "1", "2"]),
    "names": (lambda i: [("json", json.dumps({"class": "cba"[i % 3]}).encode())], ["a", "b", "c"]),
    "both, and more": (lambda i: [("json", b"{}"), ("cls", b"%d" % (i % 3)), ("txt", b"a cat")], ["0", "1", "2"]),
    "none": (lambda i: [("cls", b"-1")], None),
    "none in words": (lambda i: [("cls", (b"NaN", b"NA", b"")[i % 3])], None),
    "none in json": (lambda i: [("json", b'{"label": NaN}' if i % 2 else b'{"label": "null"}')], None),
    "whole floats": (lambda i: [("json", b'{"label": %d.0}' % (i % 3))], ["0", "1", "2"]),
    "deep": (lambda i: [("json", b"[" * 100_000)], None),
    "damaged": (lambda i: [("json", b"{"), ("cls", b"\xff")], None),
    "no labels": (lambda i: [], None),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_anybodys_shards(kind, tmp_path):
    label, classes = LABELS[kind]
    images = open_source(str(make(tmp_path / "set", label))).splits["train"]
    assert images.classes == classes
    assert images.files[5] == "part-1/005.png"
    for i in range(12):
        np.testing.assert_array_equal(images.load(i), np.asarray(noise(i)))
    if classes:
        assert [classes[k] for k in images.labels] == [("cba" if "a" in classes else "012")[i % 3] for i in range(12)]
    else:
        assert images.labels is None


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_labels_of_a_single_shard(kind, ending, tmp_path):
    label, classes = LABELS[kind]
    make(tmp_path / "set", label, count=1, each=6)
    path, data = tmp_path / f"one{ending}", (tmp_path / "set" / "part-0.tar").read_bytes()
    path.write_bytes(gzip.compress(data) if ending == ".tar.gz" else data)
    source = open_source(str(path))
    images = source.splits["train"]
    assert (images.classes, images.files[5]) == (classes, "005.png")
    if classes:
        assert [classes[k] for k in images.labels] == [("cba" if "a" in classes else "012")[i % 3] for i in range(6)]
        assert {note for note in source.notes if ".cls" in note or ".json" in note} == set()
    else:
        assert images.labels is None
        assert sum(n for note, n in source.notes.items() if "ignored, not an image" in note) == 6 * len(label(0))


def test_folders_are_the_classes_of_a_tar_with_json_files(tmp_path):
    members = [(f"{c}/{i}.{e}", d) for c in "ab" for i in (1, 2) for e, d in (("png", encoded(i)), ("json", b"{}"))]
    source = open_source(str(pack(tmp_path / "a.tar", members)))
    assert source.splits["train"].classes == ["a", "b"]
    assert source.notes == {"ignored, not an image (.json)": 4}


def test_names_with_numbers_are_in_the_order_of_their_values(tmp_path):
    label = lambda i: [("json", json.dumps({"label": ("10.5", "9.5", "b")[i % 3]}).encode())]  # noqa: E731
    images = open_source(str(make(tmp_path / "set", label))).splits["train"]
    assert (images.classes, images.labels.tolist()[:3]) == (["9.5", "10.5", "b"], [1, 0, 2])


def test_two_images_of_one_key_are_reported(tmp_path):
    path = pack(
        tmp_path / "part-0.tar", [("scan.1.png", encoded(1)), ("scan.2.png", encoded(2)), ("b.png", encoded(3))]
    )
    message = r"part-0/scan\.1\.png and part-0/scan\.2\.png have the same key, the name up to its first dot"
    with pytest.warns(UserWarning, match=message):
        source = open_source(str(path).replace("-0", "-{0..0}"))
    assert source.splits["train"].files == ["part-0/scan.1.png", "part-0/b.png"]


def test_one_shard_by_its_name_reads_one_image_of_a_key_too(tmp_path):
    members = [
        (f"{i}.{e}", d)
        for i in range(4)
        for e, d in (("jpg", encoded(i)), ("seg.png", encoded(9)), ("cls", b"01"[i % 2 :][:1]))
    ]
    path = str(pack(tmp_path / "part-0.tar", members))
    with pytest.warns(UserWarning, match="have the same key"):
        one = open_source(path)
    with pytest.warns(UserWarning, match="have the same key"):
        in_pattern = open_source(path.replace("-0", "-{0..0}"))
    assert one.splits["train"].files == [f"{i}.jpg" for i in range(4)]
    assert one.splits["train"].labels.tolist() == in_pattern.splits["train"].labels.tolist() == [0, 1, 0, 1]


def test_a_damaged_list_of_progress_is_taken_up_to_the_damage(photos, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    whole = write(photos, tmp_path / "whole", count=7)
    monkeypatch.setattr(sharding, "write_index", stop)
    with pytest.raises(KeyboardInterrupt):
        write(photos, tmp_path / "out", count=7)
    monkeypatch.undo()
    for damage in ("[1]", '{"split": "train"}', "{", "[" * 100_000):
        folder = tmp_path / f"copy{len(damage)}"
        shutil.copytree(tmp_path / "out", folder)
        lines = (folder / "progress.jsonl").read_text().splitlines()
        (folder / "progress.jsonl").write_text("\n".join([*lines[:3], damage, *lines[4:]]) + "\n")
        assert write(photos, folder, count=7) == whole
        assert contents(folder) == contents(tmp_path / "whole")


def test_images_without_a_label_among_labelled_ones_are_kept(tmp_path):
    source = open_source(str(make(tmp_path / "set", lambda i: [("cls", str(i % 3).encode())] if i != 7 else [])))
    expected = [i % 3 if i != 7 else -1 for i in range(12)]
    assert source.splits["train"].labels.tolist() == expected
    write_shards(source, tmp_path / "out", count=5)
    assert open_source(str(tmp_path / "out")).splits["train"].labels.tolist() == expected


def test_a_broken_shard_is_survived_and_counted(tmp_path):
    pattern = make(tmp_path / "set", count=4)
    os.truncate(tmp_path / "set" / "part-1.tar", 2_000)
    (tmp_path / "set" / "part-2.tar").write_bytes(b"nothing of the kind" * 100)
    whole = (tmp_path / "set" / "part-3.tar").read_bytes()
    at = whole.index(b"013.png")
    (tmp_path / "set" / "part-3.tar").write_bytes(whole[:at] + b"\xff" * 20 + whole[at + 20 :])
    source = open_source(str(pattern))
    files = source.splits["train"].files
    assert files[:4] == [f"part-0/{i:03d}.png" for i in range(4)]
    assert "part-3/012.png" in files
    assert len(files) < 12
    reasons = {os.path.basename(file): reason for file, reason in source.skipped}
    assert set(reasons) == {"part-1", "part-2", "part-3"}
    assert "unreadable shard" in reasons["part-2"]


@pytest.mark.parametrize("mutants", [100, pytest.param(5_000, marks=pytest.mark.slow)])
def test_no_sample_is_lost_silently(mutants, tmp_path):
    """Bytes of a shard changed at random: either all images are there, or the source says what is amiss."""
    pattern = make(tmp_path / "set", count=1, each=6)
    path, rng = tmp_path / "set" / "part-0.tar", np.random.default_rng(0)
    whole = path.read_bytes()
    lost = 0
    for _ in range(mutants):
        data = bytearray(whole)
        header = 512 * int(rng.integers(len(data) // 512))
        data[header + int(rng.integers(512))] ^= int(rng.integers(1, 256))
        path.write_bytes(data)
        try:
            source = open_source(str(pattern), max_unreadable=1)
            kept = load_pixels(source.splits["train"], 12, 3, source)[1]
        except UserError:
            lost += 1
            continue
        assert len(kept) == 6 or source.skipped or source.notes, "lost silently"
        lost += len(kept) < 6
    assert lost


def test_patterns():
    assert shards.expand("a-{08..10}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert shards.expand("{0..1}/b-{0..1}.tar") == ["0/b-0.tar", "0/b-1.tar", "1/b-0.tar", "1/b-1.tar"]
    for pattern, said in (
        ("a-{9..1}.tar", r"runs backwards; write \{1\.\.9\}"),
        ("a-{0..99999999}.tar", "limit 1,000,000"),
    ):
        with pytest.raises(UserError, match=said):
            shards.expand(pattern)


def test_patterns_that_name_nothing_and_shards_of_nothing(tmp_path):
    pattern = make(tmp_path / "set")
    assert "no shard exists; the first missing one is" in refused(tmp_path / "set" / "prat-{0..2}.tar")
    assert "1 of the 4 shards are there" not in refused(str(pattern).replace("0..2", "0..3"))
    assert "1 of the 4 shards are missing; the first is" in refused(str(pattern).replace("0..2", "0..3"))
    pack(tmp_path / "set" / "empty-0.tar", [("000.txt", b"a cat")])
    assert "expected members such as 000123.jpg and 000123.cls" in refused(tmp_path / "set" / "empty-{0..0}.tar")
    (tmp_path / "set" / "gz-0.tar").write_bytes(gzip.compress(b"x" * 1000))
    assert "gzipped: " in refused(tmp_path / "set" / "gz-{0..0}.tar")


def test_a_range_of_too_many_digits_is_no_pattern():
    assert is_pattern("a-{0..12}.tar")
    assert not is_pattern("a-{0.." + "9" * 5000 + "}.tar")


def test_labels_of_a_single_tar_are_found_by_names_that_are_not_utf8(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", encoding="latin-1") as tar:
        for i in range(4):
            buffer = io.BytesIO()
            Image.new("L", (8, 8), 50 * i).save(buffer, "PNG")
            for ending, data in (("png", buffer.getvalue()), ("cls", str(i % 2).encode())):
                info = tarfile.TarInfo(f"\xe9{i}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    assert open_source(str(tmp_path / "a.tar")).splits["train"].labels.tolist() == [0, 1, 0, 1]
