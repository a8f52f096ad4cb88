"""Shards on another machine: the same images, a few shards at a time, in an order that can be taken up anywhere."""

import gc
import hashlib
import json
import os
import shutil
import signal
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bigbigan.apps.report.contents import gather
from bigbigan.apps.train import train
from bigbigan.cli import main
from bigbigan.data import Unreadable, inspect, load_pixels, open_source, write_shards
from bigbigan.data.batches import Batches
from bigbigan.data.shards import reader as reading
from bigbigan.data.shards import remote
from bigbigan.data.streaming import StreamedPixels, order_by_shards
from bigbigan.errors import UserError
from bigbigan.training.distributed import rows_of_rank
from tiny import tiny_config

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("BIGBIGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "RETRY_DELAYS", (0.0, 0.0, 0.0))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """60 photographs of two classes."""
    root = tmp_path_factory.mktemp("data") / "photos"
    for i in range(60):
        path = root / f"class{i % 2}" / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (12, 14, 3), dtype=np.uint8)).save(path)
    return root


@pytest.fixture(scope="module")
def shards(photos):
    """The same in 12 shards."""
    write_shards(open_source(str(photos)), photos.parent / "shards", count=5)
    return photos.parent / "shards"


@pytest.fixture
def asked(monkeypatch):
    """The locations that are read, in their order."""
    locations, real = [], remote.read_location
    monkeypatch.setattr(remote, "read_location", lambda location: locations.append(location) or real(location))
    return locations


class Server:
    """Serves a folder; answers in `faults` are spoilt so many times."""

    def __init__(self, folder: Path) -> None:
        self.faults: dict[str, int] = {}
        server = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rpartition("/")[2]
                if server.faults.get(name, 0) > 0:
                    server.faults[name] -= 1
                    data = Path(self.translate_path(self.path)).read_bytes()
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data[: len(data) // 2])
                else:
                    super().do_GET()

            def log_message(self, *_) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def server(shards):
    server = Server(shards)
    yield server
    server.server.shutdown()
    server.server.server_close()


def streamed(spec, shuffle_shards=2, **ranks):
    source = open_source(spec)
    return StreamedPixels(source.splits["train"], 12, 3, source, CPU, shuffle_shards, **ranks)


# -- what is read -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["index over http", "index of a command", "pattern over http", "pattern of a command"])
def test_images_are_those_of_the_set(way, photos, shards, server, asked):
    spec = {
        "index over http": f"{server.url}/index.json",
        "index of a command": f"pipe:cat '{shards}/index.json'",
        "pattern over http": f"{server.url}/train/shard-{{000000..000011}}.tar",
        "pattern of a command": f"pipe:cat '{shards}/train/shard-{{000000..000011}}.tar'",
    }[way]
    source, theirs = open_source(spec), open_source(str(photos))
    train, other = source.splits["train"], theirs.splits["train"]
    assert source.name == ("photos" if "index" in way else "shard")
    assert train.classes == (["class0", "class1"] if "index" in way else ["0", "1"])
    pixels, _ = load_pixels(train, 12, 3, source)
    by_content = {x.tobytes(): label for x, label in zip(load_pixels(other, 12, 3)[0], other.labels, strict=True)}
    assert [by_content[x.tobytes()] for x in pixels] == train.labels.tolist()
    assert len(by_content) == len(pixels) == 60
    assert not source.skipped
    assert len(asked) == (24 if "pattern" in way else 12)  # a pattern is listed first
    asked.clear()
    open_source(spec)  # and the list is kept
    assert not asked
    assert inspect(source)["splits"]["train"]["duplicates"] == 0


def test_what_is_not_there_is_refused_in_one_line(server, tmp_path):
    for spec, said in (
        (f"{server.url}/other/index.json", "cannot be fetched: HTTP Error 404"),
        ("http://127.0.0.1:9/index.json", "cannot be fetched"),
        (f"pipe:cat {tmp_path}/index.json", "cannot be fetched: the command ended with code 1: cat: "),
        ("pipe:no-such-command index.json", "no such command: no-such-command"),
        ("pipe:cat 'index.json", "No closing quotation"),
        (f"pipe:echo index.json {tmp_path}", "is damaged"),
        (f"{server.url}/train", "is not a source; expected .../index.json or"),
        (f"{server.url}/part-{{0..3}}.tar", "no images in"),
    ):
        with pytest.raises(UserError) as error:
            open_source(spec)
        assert said in str(error.value)
        assert "\n" not in str(error.value)


def test_an_index_comes_in_pieces_of_any_size(shards, monkeypatch):
    text = (shards / "index.json").read_bytes()
    monkeypatch.setattr(reading, "read_location", lambda _: (text[i : i + 1] for i in range(len(text))))
    assert len(open_source(f"pipe:cat {shards}/index.json").splits["train"]) == 60
    monkeypatch.setattr(reading, "MAX_BYTES", 1000)
    with pytest.raises(UserError, match="larger than"):
        open_source(f"pipe:cat {shards}/index.json")


def test_shards_that_are_read_in_order_are_fetched_ahead(shards, asked):
    images = open_source(f"pipe:cat {shards}/index.json").splits["train"]
    asked.clear()
    images.fetch_ahead(5)
    images.fetch_ahead(59)
    deadline = time.monotonic() + 120
    while len(asked) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sorted(a.rpartition("/")[2][6:12] for a in asked) == ["000001", "000002", "000003", "000011"]


def test_a_broken_off_or_spoilt_fetch_is_tried_again(server, shards):
    server.faults = {"shard-000003.tar": 2, "shard-000005.tar": 3}
    source = open_source(f"{server.url}/index.json")
    assert len(load_pixels(source.splits["train"], 12, 3, source)[1]) == 60
    assert not any(server.faults.values())


def test_a_missing_shard_loses_its_images_and_names_them(server, shards, asked):
    server.faults = {"shard-000003.tar": 100}
    source = open_source(f"{server.url}/index.json", max_unreadable=0.2)
    _, kept = load_pixels(source.splits["train"], 12, 3, source)
    assert len(kept) == 55
    assert len(source.skipped) == 5
    assert "cannot be fetched: broke off" in source.skipped[0][1]
    assert source.notes["cannot be read"] == 5
    assert sum("000003" in location for location in asked) == 4


def test_bytes_that_are_not_those_of_the_index_are_refused(shards, tmp_path):
    text = (shards / "index.json").read_text()
    digest = hashlib.sha256((shards / "train" / "shard-000004.tar").read_bytes()).hexdigest()
    (tmp_path / "index.json").write_text(text.replace(digest, "0" * 64))
    (tmp_path / "train").symlink_to(shards / "train")
    source = open_source(f"pipe:cat {tmp_path}/index.json", max_unreadable=0.2)
    load_pixels(source.splits["train"], 12, 3, source)
    assert {reason for _, reason in source.skipped} == {"cannot be read (cannot be fetched: wrong checksum)"}
    assert len(source.skipped) == 5


@pytest.mark.parametrize("removed", ["copy", "folder"])
def test_a_copy_removed_by_others_is_fetched_again(removed, shards, tmp_path, asked):
    images = open_source(f"pipe:cat {shards}/index.json").splits["train"]
    expected = images.load(0)
    (copy,) = (tmp_path / "cache" / "shards").rglob("*.tar")
    copy.unlink() if removed == "copy" else shutil.rmtree(copy.parent)
    np.testing.assert_array_equal(images.load(0), expected)
    assert len(asked) == 2


def test_copies_that_are_always_removed_are_an_error(shards, monkeypatch, asked):
    real = remote.RemoteShards._download
    monkeypatch.setattr(
        remote.RemoteShards, "_download", lambda self, k, target: (real(self, k, target), target.unlink())
    )
    images = open_source(f"pipe:cat {shards}/index.json").splits["train"]
    with pytest.raises(Unreadable, match=r"3 copies in .* were removed by another program; set BIGBIGAN_CACHE"):
        images.load(0)
    assert len(asked) == 3


def test_a_command_that_stalls_is_ended(monkeypatch):
    monkeypatch.setattr(remote, "TIMEOUT", 0.3)
    start = time.perf_counter()
    with pytest.raises(UserError, match=r"wrote nothing for 0\.3 seconds"):
        open_source("pipe:sh -c 'sleep 50' index.json")
    assert time.perf_counter() - start < 40


def test_a_command_is_words_and_no_shell(tmp_path):
    with pytest.raises(UserError, match="is damaged"):
        open_source(f"pipe:echo index.json; touch {tmp_path}/x")
    assert not (tmp_path / "x").exists()


def test_a_run_of_somebody_else_executes_nothing(shards, tmp_path, capsys):
    run, trace = tmp_path / "run", tmp_path / "trace"
    train(tiny_config("training.steps=4", "data.channels=3"), str(shards), run, progress=False)
    card = json.loads((run / "data.json").read_text())
    (run / "data.json").write_text(json.dumps(card | {"spec": f"pipe:touch {trace} index.json"}))
    for arguments in (
        ["evaluate", run],
        ["encode", run, "--out", tmp_path / "f.npz"],
        ["reconstruct", run, "--out", tmp_path / "r.png"],
        ["classify", run, "--labels-per-class", 3, "--out", tmp_path / "p.csv"],
        ["train", "small/digits", "--out", run],
    ):
        assert main([str(a) for a in arguments]) == 2
        assert "--data 'pipe:touch" in capsys.readouterr().err
    assert "--data 'pipe:touch" in gather(run, None).no_source
    assert not trace.exists()


# -- the order ----------------------------------------------------------------------------------------------


def shards_of_order(counts):
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_an_epoch_has_every_image_once_from_few_shards():
    shards = shards_of_order([7] * 12)
    order = order_by_shards(shards, 3, generator())
    assert sorted(order.tolist()) == list(range(84))
    groups = [set(shards[order[i : i + 21]].tolist()) for i in range(0, 84, 21)]
    assert [len(g) for g in groups] == [3, 3, 3, 3]
    assert set.union(*groups) == set(range(12))
    assert (shards[order[:21]].diff() == 0).float().mean() < 0.6  # mixed, not one after the other
    assert not torch.equal(order, order_by_shards(shards, 3, generator(1)))
    assert torch.equal(order, order_by_shards(shards, 3, generator()))


def test_with_all_shards_together_any_image_may_come_anywhere():
    shards = shards_of_order([50] * 4)
    first = torch.stack([order_by_shards(shards, 4, generator(i))[:1] for i in range(400)])
    counts = torch.bincount(shards[first[:, 0]], minlength=4)
    assert counts.min() > 60  # of 100 expected


@pytest.mark.parametrize("counts", [[10] * 8, [3, 50, 7, 1, 9, 20, 4, 6], [100], [5, 5]])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_ranks_share_out_the_shards_evenly(counts, world):
    shards = shards_of_order(counts)
    parts = [order_by_shards(shards, 2, generator(), rank, world) for rank in range(world)]
    assert {len(p) for p in parts} == {sum(counts) // world}  # or they would wait for each other for ever
    everything = torch.cat(parts).tolist()
    assert len(set(everything)) == len(everything)
    held = [len(shards[p].unique()) for p in parts]
    assert sum(held) <= len(counts) + world - 1  # of another rank only the shard where they meet


def test_processes_read_their_rows_from_their_own_shards(shards):
    batches = Batches(streamed(f"pipe:cat {shards}/index.json", world=3), 9, 0)
    epochs = [
        torch.stack([batches.indices(6 * e + i) for i in range(6)]) for e in range(2)
    ]  # 6 batches of 9 in 60 images
    for rows in epochs:
        assert len(rows.unique()) == 54
        held = [batches.pixels.shards[rows[:, 3 * rank : 3 * rank + 3]].unique() for rank in range(3)]
        assert sum(map(len, held)) <= 12 + 2
    assert not torch.equal(*epochs)
    drawn = batches.sample_indices(30, generator(), 0)
    for rank in range(3):
        own = batches.pixels.shards[epochs[0][:, 3 * rank : 3 * rank + 3]].unique()
        assert set(batches.pixels.shards[drawn[10 * rank : 10 * rank + 10]].tolist()) <= set(own.tolist())
    one = Batches(streamed(f"pipe:cat {shards}/index.json"), 9, 0)
    assert sorted(torch.cat([one.indices(i) for i in range(20)])[:60].tolist()) == list(range(60))


@pytest.mark.parametrize("chunks", [1, 2, 4])
def test_processes_read_their_rows_of_all_chunks_from_their_own_shards(shards, chunks):
    batches = Batches(streamed(f"pipe:cat {shards}/index.json", world=2), 8, 0, chunks=chunks)
    epoch = torch.stack([batches.indices(i) for i in range(7)])  # 7 batches of 8 in 60 images
    assert len(epoch.unique()) == 56
    drawn = batches.sample_indices(30, generator(), 0)
    for rank in range(2):
        rows = [epoch[:, part] for part in rows_of_rank(8, chunks, rank, 2)]
        own = set(torch.cat([batches.pixels.shards[r].flatten() for r in rows]).tolist())
        assert len(own) <= 6 + 1  # of the 12
        assert set(batches.pixels.shards[drawn[15 * rank : 15 * rank + 15]].tolist()) <= own


# -- training -----------------------------------------------------------------------------------------------


def test_a_stream_keeps_few_shards_and_fetches_each_once(shards, tmp_path, asked):
    pixels = streamed(f"pipe:cat {shards}/index.json", shuffle_shards=2)
    batches = Batches(pixels, 5, 0)
    memory, _ = load_pixels(pixels.images, 12, 3)
    asked.clear()
    held = 0
    for number in range(24):  # two epochs
        x = pixels[batches.indices(number)]
        batches.batch(number)
        assert np.array_equal(x, memory[batches.indices(number)])
        held = max(held, len(list((tmp_path / "cache").rglob("*.tar"))))
    assert held <= 6 + 1  # one may be about to go
    assert len(asked) <= 24 + 4  # and those ahead
    del batches, x
    pixels.close()


def test_following_shards_are_fetched_ahead(shards, asked):
    pixels = streamed(f"pipe:cat {shards}/index.json", shuffle_shards=2)
    batches = Batches(pixels, 5, 0)
    asked.clear()
    batches.batch(0)
    batches.batch(1)
    deadline = time.monotonic() + 120
    ahead = pixels.shards[torch.cat([batches.indices(n) for n in (2, 3)])].unique()
    while len(asked) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert {f"shard-{n:06d}.tar" for n in ahead.tolist()} <= {a.rpartition("/")[2].rstrip("'") for a in asked}


SETTINGS = ("data.channels=3", "data.memory_gib=0", "data.shuffle_shards=2", "training.batch_size=7",
            "log.checkpoint_every=3", "log.pictures_every=3")  # fmt: skip


def test_a_run_resumed_amid_an_epoch_equals_the_whole_run(shards, tmp_path, asked):
    spec = f"pipe:cat {shards}/index.json"
    train(tiny_config(*SETTINGS, "training.steps=6"), spec, tmp_path / "whole", progress=False)
    train(tiny_config(*SETTINGS, "training.steps=3"), spec, tmp_path / "parts", progress=False)
    asked.clear()
    train(tiny_config(*SETTINGS, "training.steps=6"), spec, tmp_path / "parts", progress=False)
    a, b = (
        [p.read_bytes() for p in sorted((tmp_path / run / "checkpoints" / "step-00000006").glob("*.safetensors"))]
        for run in ("whole", "parts")
    )
    assert a == b


def test_nothing_of_an_epoch_before_is_fetched_to_go_on_in_it(shards, tmp_path, asked):
    pixels = streamed(f"pipe:cat {shards}/index.json", shuffle_shards=1)
    batches = Batches(pixels, 5, 0)
    asked.clear()
    batches.batch(8)
    time.sleep(0.2)
    needed = {f"shard-{n:06d}.tar" for i in range(8, 14) for n in pixels.shards[batches.indices(i)].tolist()}
    assert {a.rpartition("/")[2].rstrip("'") for a in asked} <= needed


def test_fetching_the_whole_set_repeatedly_is_refused(shards, tmp_path):
    with pytest.raises(UserError, match=r"set log.validate_every=0, or raise data.memory_gib"):
        train(
            tiny_config(*SETTINGS, "log.validate_every=2"),
            f"pipe:cat {shards}/index.json",
            tmp_path / "r",
            progress=False,
        )
    few = [s for s in SETTINGS if "memory" not in s]
    few += ["training.steps=2", "log.validate_every=2"]  # held in memory it may
    train(tiny_config(*few), f"pipe:cat {shards}/index.json", tmp_path / "s", progress=False)


def test_a_run_survives_a_lost_shard_and_says_so(server, shards, tmp_path):
    server.faults = {"shard-000003.tar": 1000}
    settings = (*SETTINGS, "training.steps=4", "data.max_unreadable=0.2")
    train(tiny_config(*settings), f"{server.url}/index.json", tmp_path / "run", progress=False)
    card = json.loads((tmp_path / "run" / "data.json").read_text())
    assert card["notes"] == {"cannot be read": len(card["skipped"])}
    assert 0 < len(card["skipped"]) <= 5


def test_memory_does_not_grow_over_a_long_stream(shards):
    pixels = streamed(f"pipe:cat {shards}/index.json", shuffle_shards=2)
    batches = Batches(pixels, 5, 0)

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20

    for number in range(24):
        batches.batch(number)
    before = resident()
    for number in range(24, 24 + 120):  # ten epochs: 120 shards fetched
        batches.batch(number)
    assert resident() - before < 8
    assert len(pixels._pending) <= 6 * 5
    pixels.close()


def test_temporary_copies_are_removed_even_after_a_kill(shards, tmp_path):
    held = tmp_path / "cache" / "shards"

    def read():
        source = open_source(f"pipe:cat {shards}/index.json")
        load_pixels(source.splits["train"], 8, 3, source)
        assert len(list(held.rglob("*.tar"))) == 12
        return source

    child = os.fork()
    if child == 0:
        kept = read()
        os.kill(os.getpid(), signal.SIGKILL)
        kept.name = "never reached"
    os.waitpid(child, 0)
    assert len(list(held.rglob("*.tar"))) == 12
    source = read()
    del source
    gc.collect()
    assert not list(held.rglob("*"))


def test_a_batch_larger_than_the_set_is_not_shared_out_by_shards(shards):
    batches = Batches(streamed(f"pipe:cat {shards}/index.json", world=2), 64, 0)  # 60 images
    assert batches.steps_per_epoch() == 1
    assert sorted(torch.cat([batches.indices(i) for i in range(15)]).bincount().tolist()) == [16] * 60


def test_a_command_that_does_not_end_is_reported(monkeypatch, shards):
    monkeypatch.setattr(remote, "TIMEOUT", 0.5)
    with pytest.raises(UserError, match="the command does not end after its output"):
        open_source(f"pipe:sh -c 'cat {shards}/index.json; exec >&-; sleep 60' index.json")
