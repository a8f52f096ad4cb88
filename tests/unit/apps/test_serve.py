"""What the page of `serve` computes, and the mistakes in how it is started; the page itself is in tests/external."""

import io
import os
import signal
import socket
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from bigbigan.apps import serve
from bigbigan.apps.serve import ServedModel, server, widgets
from bigbigan.apps.serve.widgets import _about
from bigbigan.apps.train import train
from bigbigan.cli import main
from bigbigan.errors import RunError, UserError
from bigbigan.integrations.export import export
from tiny import tiny_config, write_npz

SIDE = 192  # of an image of 8 px on the page


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_npz(tmp_path_factory.mktemp("serve") / "rows.npz")


@pytest.fixture(scope="module")
def run(data):
    train(tiny_config("training.steps=20"), str(data), data.parent / "run", progress=False)
    return data.parent / "run"


@pytest.fixture(scope="module")
def served(run):
    return ServedModel(run)


def pixels(picture):
    """A tile's own pixels, uint8 [8, 8], of a picture whose first tile it is."""
    return np.asarray(picture)[12:SIDE:24, 12:SIDE:24, 0]


# -- images that are given ----------------------------------------------------------------------------------


def test_images_are_read_as_everywhere_and_as_in_training(served, tmp_path):
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    path = tmp_path / "x.png"
    Image.fromarray(grey).save(path)
    np.testing.assert_array_equal(served.read(path), grey[None])
    Image.fromarray(grey.astype(np.uint16) * 256).save(path)  # 16 bits
    np.testing.assert_array_equal(served.read(path), grey[None])
    turned = Image.fromarray(grey)
    turned.getexif()[0x0112] = 6
    turned.save(path, exif=turned.getexif())
    np.testing.assert_array_equal(served.read(path), np.rot90(grey, -1)[None])
    Image.fromarray(np.full((20, 30, 3), (255, 0, 0), np.uint8)).convert("CMYK").save(tmp_path / "x.jpg")
    assert served.read(tmp_path / "x.jpg").shape == (1, 8, 8)
    Image.fromarray(np.full((7, 7), 9, np.uint8)).save(path)
    padded = served.read(path)  # rows of an array are padded in training, and so is an image of that kind
    assert (padded[0, :7, :7] == 9).all()
    assert padded.sum() == 9 * 49


def png(size):
    data = io.BytesIO()
    Image.new("1", size).save(data, "PNG")
    return data.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            lambda: png((6000, 5000)),
            r"x\.png cannot be used: too many pixels \(30\.0 megapixels, limit 25: reduce the image",
        ),
        (lambda: png((4000, 20)), "too narrow"),
        (lambda: png((8, 8))[:40], "damaged PNG|truncated PNG"),
        (lambda: b"a letter", "not an image"),
        (lambda: b"", "empty file"),
        (lambda: bytes(16 * 2**20 + 1), r"file too large \(over 16 MiB\)"),
    ],
)
def test_what_is_no_image_is_refused_by_name(served, tmp_path, content, message):
    path = tmp_path / "x.png"
    path.write_bytes(content())
    with pytest.raises(UserError, match=message) as caught:
        served.read(path)
    assert str(tmp_path) not in str(caught.value)  # a visitor must not see local paths


def test_what_is_no_regular_file_is_not_read(served, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "zero.png"):
        with pytest.raises(UserError, match=f"{name} cannot be used: it is not a regular file"):
            served.read(tmp_path / name)


# -- what is computed ---------------------------------------------------------------------------------------


def test_samples_are_those_of_generate(served):
    assert served.samples(4, 1.0, 0).size == (2 * SIDE + 4,) * 2
    assert served.samples(17, 1.0, 0).size[0] == 5 * SIDE // 2 + 4 * 4
    first = served.model.generate(1, 0.5, seed=3)
    expected = (128 * (first[0, 0] + 1)).clamp(0, 255).byte()
    np.testing.assert_array_equal(pixels(served.samples(1, 0.5, 3)), expected)
    for count in (0, 101):
        with pytest.raises(UserError, match=f"images: {count}; expected 1 to 100"):
            served.samples(count, 1.0, 0)
    with pytest.raises(UserError, match="trained without labels"):
        served.samples(1, 1.0, 0, label=2)


def test_an_image_its_reconstruction_and_its_refinement(served):
    x = served.examples[0]
    np.testing.assert_allclose(pixels(served.view(x)), x[0], atol=1)
    made = served.reconstruct(x)
    float_x = x[0] / 127.5 - 1
    error = np.linalg.norm(float_x - served.model.reconstruct(served._x(x))[0, 0].numpy()) / 2
    assert made.error == pytest.approx(error, rel=1e-4)
    steps = []
    refined = served.refine(x, 25, steps.append)
    assert steps == list(range(1, 26))
    assert refined.error < made.error
    assert refined.picture.size == (SIDE, SIDE)
    for count in (0, 1_001):
        with pytest.raises(UserError, match="expected 1 to 1000"):
            served.refine(x, count)


def test_neighbours_are_training_images_with_distance_and_class(served, run):
    with np.load(run.parent / "rows.npz") as arrays:
        x, label = arrays["train_images"][7][None], arrays["train_labels"][7, 0]
    found = served.neighbours(x, 5)
    assert found[0][1] == f"0.000 {label}"
    np.testing.assert_allclose(pixels(found[0][0]), x[0], atol=1)
    distances = [float(caption.split()[0]) for _, caption in found]
    assert len(distances) == 5
    assert distances == sorted(distances)


def test_an_image_is_classified_by_the_saved_head(run, tmp_path):
    assert not ServedModel(run).classifies
    head = tmp_path / "h.safetensors"
    assert main(["classify", str(run), "--save", str(head), "--quiet"]) == 0
    for served in (ServedModel(run, head=head), ServedModel(export(run, tmp_path / "model", head=head))):
        image = np.random.default_rng(0).integers(0, 60, (1, 8, 8), dtype=np.uint8)
        image[0, 2] += 180  # the bright row of class 1
        probabilities, warning = served.classify(image)
        assert list(probabilities) == ["0", "1", "2"]
        assert sum(probabilities.values()) == pytest.approx(1)
        assert max(probabilities, key=probabilities.get) == "1"
        found = served.model.predict(image[None])
        assert probabilities["1"] == pytest.approx(found.probabilities[0, 1].item())
        assert bool(warning) == bool(found.unlike_training[0])
        noise = np.random.default_rng(0).integers(0, 256, (1, 8, 8), dtype=np.uint8)
        assert "do not rely on its class" in served.classify(noise)[1]


def test_without_classes_neighbours_are_named(run, tmp_path):
    folder = tmp_path / "flat"
    folder.mkdir()
    for i in range(6):
        Image.fromarray(np.full((8, 8), 40 * i, np.uint8)).save(folder / f"{i}.png")
    served = ServedModel(run, str(folder))
    assert served.neighbours(served.read(folder / "2.png"))[0][1] == "0.000 2.png"
    assert len(served.examples) == 6
    table = tmp_path / "labels.csv"
    table.write_text("file,label\n" + "".join(f"{i}.png,{'dark' if i < 3 else 'bright'}\n" for i in range(6)))
    served = ServedModel(run, str(folder), str(table))
    assert served.neighbours(served.read(folder / "2.png"))[0][1] == "0.000 dark"
    table.write_text("file,label\n0.png,dark\n5.png,bright\n")  # the others have none
    served = ServedModel(run, str(folder), str(table))
    said = {caption.split()[1] for _, caption in served.neighbours(served.read(folder / "2.png"))}
    assert said == {"dark", "1.png", "2.png", "3.png", "4.png", "bright"}


def test_interpolation_has_its_images_at_the_ends(served):
    a, b = served.examples[0], served.examples[5]
    strip = served.interpolate(a, b, 6)
    assert strip.size == (8 * SIDE + 7 * 4, SIDE)
    np.testing.assert_allclose(pixels(strip), a[0], atol=1)
    np.testing.assert_allclose(pixels(strip.crop((7 * (SIDE + 4), 0, *strip.size))), b[0], atol=1)
    for steps in (1, 17):
        with pytest.raises(UserError, match="expected 2 to 16"):
            served.interpolate(a, b, steps)


def test_an_exported_model_has_neighbours_if_it_is_given_images(run, data, tmp_path):
    out = export(run, tmp_path / "model")
    served = ServedModel(out)
    assert "give --data SOURCE" in served.missing
    assert not served.finds_neighbours
    assert len(served.examples) == 0
    path = tmp_path / "x.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
    assert served.reconstruct(served.read(path)).picture.size == (SIDE, SIDE)
    assert ServedModel(out, str(data)).finds_neighbours
    with pytest.raises(UserError, match=r"none\.npz"):
        ServedModel(out, str(tmp_path / "none.npz"))


def test_a_gan_samples_and_looks_at_nothing(data, tmp_path):
    config = tiny_config("training.steps=2", "loss.s_z=false", "loss.s_xz=false")
    train(config, str(data), tmp_path / "gan", progress=False)
    served = ServedModel(tmp_path / "gan")
    assert not served.encodes
    assert served.samples(1, 1.0, 0).size == (SIDE, SIDE)
    with pytest.raises(UserError, match="this model has no encoder for images"):
        ServedModel(tmp_path / "gan", str(data))


# -- how it is started --------------------------------------------------------------------------------------


def error_lines(capsys):
    return capsys.readouterr().err.splitlines()


def test_without_gradio_it_says_what_to_install(run, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["serve", str(run), "--port", "0"]) == 2
    assert error_lines(capsys) == ["bigbigan: serve needs gradio: pip install 'bigbigan[serve]'"]


@pytest.mark.parametrize(("host", "warns"), [("0.0.0.0", True), ("127.0.0.1", False), ("localhost", False)])
def test_another_host_than_this_machine_is_warned_of(run, capsys, monkeypatch, host, warns):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["serve", str(run), "--port", "0", "--host", host]) == 2
    lines = error_lines(capsys)
    assert len(lines) == 1 + warns
    if warns:
        assert lines[0].startswith("bigbigan: warning: --host 0.0.0.0: anyone who can reach it can use the page")


def test_a_port_in_use_is_reported_before_anything_is_read(tmp_path, capsys):
    (tmp_path / "none").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(tmp_path / "none"), "--port", str(port)]) == 2
    assert error_lines(capsys) == [
        f"bigbigan: --host 127.0.0.1 --port {port} cannot bind: another program uses it; choose another --port, "
        "or 0 for a free one"
    ]


def test_loopback_is_known_by_name_and_number():
    assert all(map(server._is_loopback, ("127.0.0.1", "127.0.0.9", "::1", "localhost")))
    assert not any(map(server._is_loopback, ("0.0.0.0", "::", "192.168.0.2", "example.org")))


# -- how it ends ----------------------------------------------------------------------------------------------


class FakeServer:
    """Stand in for uvicorn's: run until asked to end, or do not end at all."""

    def __init__(self, hangs=False, starts=True):
        self.hangs, self.started, self.should_exit = hangs, starts, False
        self.released = threading.Event()

    def run(self, sockets):
        while self.started and (self.hangs or not self.should_exit) and not self.released.is_set():
            time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("hangs", [False, True])
def test_a_signal_ends_it_even_while_a_request_hangs(number, hangs):
    fake = FakeServer(hangs)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), number))
    timer.start()
    start = time.perf_counter()
    with socket.socket() as listener:
        assert server._run_until_signal(fake, listener, grace=-2.5) is not hangs
    assert fake.should_exit
    assert time.perf_counter() - start < 10
    fake.released.set()


def test_a_request_that_never_returns_is_noticed():
    """The server may have ended all the same: it abandons requests that hang."""
    released = threading.Event()
    assert not widgets.model_hangs()
    hanging = widgets.MODEL.submit(released.wait)
    try:
        assert widgets.model_hangs(0.1)
    finally:
        released.set()
    hanging.result()
    assert not widgets.model_hangs()


def test_a_server_that_does_not_start_is_an_error():
    with socket.socket() as listener, pytest.raises(RunError, match="did not start"):
        server._run_until_signal(FakeServer(starts=False), listener)


def test_names_given_after_the_first_host_are_passed_on(monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr(serve, "serve", lambda *arguments, **options: given.append(arguments))
    assert main(["serve", str(tmp_path)]) == 0
    assert main(["serve", str(tmp_path), "--host", "0.0.0.0", "--host", "box.example"]) == 0
    assert [(host, names) for _, host, _, _, _, names in given] == [("127.0.0.1", []), ("0.0.0.0", ["box.example"])]


def test_names_of_a_run_are_no_markup_on_the_page(served, monkeypatch):
    monkeypatch.setattr(served, "missing", "no <b>x</b> [a](http://evil.example)\n# big")
    about = _about(served)
    assert "<b>" not in about
    assert "\\[a\\]\\(" in about
    assert "\n# " not in about.partition("training images: ")[2]
