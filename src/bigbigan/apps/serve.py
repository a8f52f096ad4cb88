"""`serve`: a page on this machine to try a model with: samples, an image of one's own, walks between two images.

What is computed is in `Bench`, which knows no page. `page` puts gradio's widgets around it, and `serve` runs that. In
front of it is `bigbigan.apps.serve_guard`, which decides what reaches it.
"""

from __future__ import annotations

import contextvars
import errno
import functools
import ipaddress
import os
import socket
import sys
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bigbigan.apps.serve_guard import Names, guard
from bigbigan.apps.visualize import REFERENCES, pixel_error, shown_split, spread
from bigbigan.data import DecodeLimits, ImageSet, Unreadable
from bigbigan.data.decode import EXTENSIONS
from bigbigan.data.image_set import FileStore, shown
from bigbigan.data.loading import middle, read_pixels, viewed_side
from bigbigan.errors import RunError, UserError
from bigbigan.evaluation.features import encoder_features
from bigbigan.evaluation.probes.knn import nearest
from bigbigan.image import pool_to
from bigbigan.inference.model import load
from bigbigan.integrations.markdown import plain
from bigbigan.io import regular_bytes
from bigbigan.training.image_grid import grid
from bigbigan.training.run_folder import Stop, default_device, open_data

__all__ = ["Bench", "serve"]

LIMITS = DecodeLimits(max_bytes=16 * 2**20)  # of an image that is uploaded
SIDE = 192  # least side of an image on the page, in pixels
EXAMPLES = 12  # images to choose from
NEIGHBOURS = 8
MOST_SAMPLES, MOST_STEPS, MOST_WALK = 100, 1_000, 16  # that one request may ask for
VISITORS = 64  # whose chosen images are kept; gradio keeps about 100 kB of each, and of 10,000 unless told otherwise
FILES_KEPT = (60, 900)  # seconds: how often old uploads and pictures are removed, and from which age
GRACE = 5  # seconds that requests may take when the server is ended


class Made(NamedTuple):
    """An image that G made after x, and how far it is from x: ‖x − x̂‖₂, pixels in [0, 1]."""

    picture: Image.Image
    error: float


class Bench:
    """A model, images of its kind, and what a visitor may ask of them, one question at a time.

    Args:
        run: see `bigbigan.load`.
        data: source of the examples and of the neighbours; by default that of the run, if it is still there.
        labels: file of their labels, in place of the source's own.
        progress: show on stderr how far the reading of the training images is.

    Attributes:
        examples: uint8 [N, C, R, R] as E sees them; none where there is no encoder or no source.
        missing: why there are neither examples nor neighbours, or "".

    Raises:
        UserError: no such run, or a source that was named and cannot be used.
    """

    def __init__(self, run: Path, data: str | None = None, labels: str | None = None, progress: bool = False) -> None:
        self.model = load(run, device=default_device())
        _ = self.model.generator  # all the page shows is made by G: who has none is told
        c = self.model.config
        self.examples = np.empty((0, c.data.channels, c.encoder.resolution, c.encoder.resolution), np.uint8)
        self.missing, self._pads, self._known = "", False, None
        if not self.encodes:
            if data or labels:
                raise UserError("--data and --labels: this model has no encoder to look at images with")
            return
        try:
            source = open_data(run, data, labels, c)
        except UserError as error:
            if data or labels:
                raise
            self.missing = str(error)
            return
        train = source.splits["train"]
        self._pads = train.store.pads
        self.examples, _ = spread(self.model, source, shown_split(source), EXAMPLES)
        self._references, self._known = spread(self.model, source, train, REFERENCES, progress)
        self._features = self._features_of(self._references)

    @property
    def encodes(self) -> bool:
        return self.model.networks.E is not None

    @property
    def finds_neighbours(self) -> bool:
        return self._known is not None

    def read(self, path: str | Path) -> np.ndarray:
        """An image file as E sees it, uint8 [C, R, R]; 16 bits, EXIF, palettes and CMYK are read as everywhere.

        Raises:
            UserError: it is no image, damaged, or beyond `LIMITS`.
        """
        path, c = Path(path), self.model.config
        limits = replace(LIMITS, max_pixels=c.data.max_pixels)
        store = FileStore([path.name], [_content(path)], lambda content: content, limits)
        store.pads = self._pads  # so that MNIST's 28 px meet the networks as in training
        images = ImageSet("upload", [path.name], None, None, store, np.arange(1))
        side = viewed_side(images, c.encoder.resolution, c.data.augment)
        try:
            return middle(read_pixels(images, 0, c.data.channels, side), c.encoder.resolution).copy()
        except Unreadable as error:
            raise UserError(f"{shown(path.name)} cannot be used: {error}") from None

    def samples(self, count: int, truncation: float, seed: int, label: int | None = None) -> Image.Image:
        """A grid of `count` samples; see `Model.generate`."""
        _within("images", count, 1, MOST_SAMPLES)
        return _tiles(self.model.generate(count, truncation, seed, label), side=SIDE if count <= 16 else SIDE // 2)

    def view(self, image: np.ndarray) -> Image.Image:
        """An image, uint8 [C, R, R], as a picture."""
        return _tiles(self._x(image))

    def reconstruct(self, image: np.ndarray) -> Made:
        """G(E(x))."""
        return self._made(image, self.model.reconstruct(self._x(image)))

    def refine(self, image: np.ndarray, steps: int, after_step: Callable[[int], object] | None = None) -> Made:
        """G of the latent that so many steps from E(x) lead to; `after_step` is called with the number of each."""
        _within("steps", steps, 1, MOST_STEPS)
        z = self.model.refine(self._x(image), steps, after_step=after_step).z
        return self._made(image, self.model.generate(z))

    def neighbours(self, image: np.ndarray, count: int = NEIGHBOURS) -> list[tuple[Image.Image, str]]:
        """The nearest training images, nearest first, each with its distance and its class or, without, its name.

        The distance is 1 − the cosine of BN+CReLU features: 0 is the same, 1 has nothing in common.
        """
        close, places = nearest(self._features_of(image[None]), self._features, count, "cosine")
        return [
            (self.view(self._references[i]), f"{max(0.0, 1 - s):.3f} {self._name(i)}")
            for i, s in zip(places[0].tolist(), close[0].tolist(), strict=True)
        ]

    def walk(self, image: np.ndarray, other: np.ndarray, steps: int) -> Image.Image:
        """A strip: an image, `steps` images on the way from its encoding to that of the other, the other."""
        _within("steps", steps, 2, MOST_WALK)
        walk = self.model.interpolate(self._x(image), self._x(other), steps)[0]
        return _tiles(torch.cat([self._target(image), walk, self._target(other)]), columns=steps + 2)

    def _name(self, i: int) -> str:
        known = self._known
        assert known is not None
        if known.labels is not None and known.classes is not None and known.labels[i] >= 0:
            return known.classes[known.labels[i]]
        return shown(Path(known.files[i]).name)

    def _features_of(self, pixels: np.ndarray) -> Tensor:
        return torch.from_numpy(encoder_features(self.model.encoder, pixels, ["bn_crelu"])["bn_crelu"])

    def _x(self, image: np.ndarray) -> Tensor:
        """x as E takes it, [1, C, R, R]."""
        return self.model.prepare(torch.from_numpy(image)[None])

    def _target(self, image: np.ndarray) -> Tensor:
        """x as G would have to make it."""
        return pool_to(self._x(image), self.model.config.generator.resolution)

    def _made(self, image: np.ndarray, x_hat: Tensor) -> Made:
        return Made(_tiles(x_hat), pixel_error(self._target(image), x_hat))


def _content(path: Path) -> bytes | Unreadable:
    try:
        return regular_bytes(path, LIMITS.max_bytes)
    except (OSError, ValueError) as error:
        return Unreadable(getattr(error, "strerror", None) or str(error))


def _tiles(images: Tensor, columns: int | None = None, side: int = SIDE) -> Image.Image:
    return grid(images, columns, gap=4, least_side=side)


def _within(what: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise UserError(f"{what}: {value}; expected {least} to {most}")


# -- the page -----------------------------------------------------------------------------------------------

# Whatever gradio's pages come to contain: a browser asks nothing of any machine but this one.
POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; form-action 'self'; frame-ancestors 'self'"
CSS = """
.gradio-container { width: 100%; max-width: 1100px !important; margin: auto; }
.gradio-container img { image-rendering: pixelated; }
.gradio-container .grid-wrap { min-height: 0; max-height: none; overflow: hidden; }
.gradio-container .grid-container { grid-template-columns: repeat(var(--grid-cols), minmax(0, 1fr)); }
.gradio-container .grid-container { grid-auto-rows: auto; }
.gradio-container .gallery-item, .gradio-container .thumbnail-item { width: 100%; height: auto; }
.gradio-container .caption-label { left: 0; right: 0; max-width: none; padding: 2px; font-size: 11px; }
"""
SUFFIXES = list(EXTENSIONS)
# One model, one question at a time: all events wait in the same line.
LINE: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
# And one thread: gradio's come and go, and each that has computed leaves some memory behind.
MODEL = ThreadPoolExecutor(1, thread_name_prefix="model")


def page(bench: Bench) -> Any:
    """The page as gradio's `Blocks`, with the tabs that the model can fill: a GAN samples, and that is all."""
    import gradio as gr

    name = bench.model.config.experiment
    with gr.Blocks(title=f"bigbigan: {name}", analytics_enabled=False, delete_cache=FILES_KEPT) as blocks:
        gr.Markdown(f"# {plain(name)}\n{_about(bench)}")
        with gr.Tab("Sample"):
            _sample_tab(gr, bench, blocks)
        if bench.encodes:
            with gr.Tab("Your image"):
                _image_tab(gr, bench, blocks)
            with gr.Tab("Walk"):
                _walk_tab(gr, bench, blocks)
    return blocks.queue(max_size=64)


def _about(bench: Bench) -> str:
    c = bench.model.config
    kind = "grey" if c.data.channels == 1 else "colour"
    looks = f"looks at {kind} images of {c.encoder.resolution} px and " if bench.encodes else ""
    able = f"{looks}makes {kind} images of {c.generator.resolution} px"
    no_images = "No example images and no nearest training images here"
    lacks = f"\n\n{no_images}: {plain(bench.missing)}." if bench.missing else ""
    return f"This model ({c.system}, {bench.model.step:,} training steps) {able}.{lacks}"


def _told(gr: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, run in the thread of the model, with a visitor's mistakes told on the page."""

    @functools.wraps(function)
    def wrapped(*arguments: Any) -> Any:
        try:
            return MODEL.submit(contextvars.copy_context().run, function, *arguments).result()
        except UserError as error:
            raise gr.Error(str(error), duration=None, print_exception=False) from None

    return wrapped


def _picture(gr: Any, title: str) -> Any:
    """A picture under its title; gradio would put the title over it."""
    with gr.Column(min_width=160):
        gr.Markdown(title)
        buttons = ["download", "fullscreen"]
        return gr.Image(label=title, show_label=False, format="png", interactive=False, buttons=buttons)


def _gallery(gr: Any, title: str, images: Any, columns: int) -> Any:
    gr.Markdown(title)
    return gr.Gallery(
        images, label=title, show_label=False, format="png", columns=columns, height="auto", allow_preview=False,
        buttons=[],
    )  # fmt: skip


def _sample_tab(gr: Any, bench: Bench, blocks: Any) -> None:
    labels = range(bench.model.config.data.classes)
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            count = gr.Slider(1, MOST_SAMPLES, 16, step=1, label="Images")
            truncation = gr.Slider(0.1, 1, 1, step=0.05, label="Truncation", info="below 1: more typical, less varied")
            seed = gr.Number(0, precision=0, minimum=0, label="Seed", info="the same seed draws the same images")
            choices = [("all", -1), *((str(k), k) for k in labels)]
            label = gr.Dropdown(choices, value=-1, label="Class", visible=len(labels) > 1)
            button = gr.Button("Generate", variant="primary")
        with gr.Column(scale=3):
            picture = _picture(gr, "**G(z)**: images made from random numbers z")

    def samples(count: float, truncation: float, seed: float, label: int) -> Image.Image:
        return bench.samples(int(count), truncation, int(seed), None if label < 0 else label)

    events = [button.click, seed.submit, blocks.load]
    gr.on(events, _told(gr, samples), [count, truncation, seed, label], picture, **LINE)


def _picker(gr: Any, bench: Bench, title: str, first: int, columns: int) -> tuple[Any, list[Any]]:
    """Widgets to choose an image with; what is chosen, at first an example, and the events of choosing."""
    known = list(bench.examples)
    chosen = gr.State(known[min(first, len(known) - 1)] if known else None)
    gr.Markdown(title)
    file = gr.File(label=title, show_label=False, file_types=SUFFIXES, height=130)
    read = file.upload(_told(gr, bench.read), file, chosen, **LINE)
    for follow in (read.success, read.failure):  # room for the next file, whatever became of this one
        follow(lambda: None, None, file, api_visibility="private")
    events = [read]
    if known:
        examples = _gallery(gr, "or click one of these", [bench.view(x) for x in known], columns)

        def pick(event: Any) -> np.ndarray:
            return known[event.index]

        pick.__annotations__["event"] = gr.SelectData  # by which gradio knows what to hand in
        events.append(examples.select(pick, None, chosen, **LINE))
    return chosen, events


def _image_tab(gr: Any, bench: Bench, blocks: Any) -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            chosen, events = _picker(gr, bench, "**Your image**", 0, columns=4)
        with gr.Column(scale=3):
            with gr.Row():
                view = _picture(gr, "**x**: as the model sees it")
                made = _picture(gr, "**G(E(x))**: its reconstruction")
                refined = _picture(gr, "**G(z)**: refined")
            errors = gr.Markdown()
            with gr.Row():
                about = "z moves from E(x) so that G(z) comes nearer to x"
                steps = gr.Slider(10, MOST_STEPS, 200, step=10, label="Steps of refinement", info=about, scale=3)
                button = gr.Button("Refine", variant="primary", scale=1)
    outputs = [view, made, refined, errors]
    if bench.finds_neighbours:
        title = "**Nearest training images**, and how far they are: 0 is the same, 1 has nothing in common"
        outputs.append(_gallery(gr, title, None, NEIGHBOURS))

    def look(image: np.ndarray | None) -> list[Any]:
        if image is None:
            return [None] * len(outputs)
        x_hat = bench.reconstruct(image)
        found = [bench.view(image), x_hat.picture, None, f"‖x − G(E(x))‖ = {x_hat.error:.2f}"]
        return [*found, bench.neighbours(image)] if bench.finds_neighbours else found

    def refine(image: np.ndarray | None, steps: float, progress: Any = gr.Progress()) -> tuple[Image.Image, str]:  # noqa: B008
        if image is None:
            raise UserError("there is no image yet; give one first")
        total, before = int(steps), bench.reconstruct(image).error
        found = bench.refine(image, total, lambda done: progress((done, total), desc="refining", unit="steps"))
        return found.picture, f"‖x − G(E(x))‖ = {before:.2f}, and after {total} steps ‖x − G(z)‖ = {found.error:.2f}"

    for event in events:
        event.success(_told(gr, look), chosen, outputs, **LINE)
    blocks.load(_told(gr, look), chosen, outputs, **LINE)
    button.click(_told(gr, refine), [chosen, steps], [refined, errors], show_progress_on=refined, **LINE)


def _walk_tab(gr: Any, bench: Bench, blocks: Any) -> None:
    with gr.Row():
        with gr.Column(min_width=280):
            start, from_events = _picker(gr, bench, "**From**", 0, columns=6)
        with gr.Column(min_width=280):
            end, to_events = _picker(gr, bench, "**To**", 3, columns=6)
    steps = gr.Slider(2, MOST_WALK, 8, step=1, label="Images on the way")
    strip = _picture(gr, "The first image, what G makes on the way from its encoding to the other's, the second image")

    def walk(image: np.ndarray | None, other: np.ndarray | None, steps: float) -> Image.Image | None:
        return None if image is None or other is None else bench.walk(image, other, int(steps))

    asked = {"fn": _told(gr, walk), "inputs": [start, end, steps], "outputs": strip, **LINE}
    for event in [*from_events, *to_events]:
        event.success(**asked)
    steps.release(**asked)
    blocks.load(**asked)


# -- the server ---------------------------------------------------------------------------------------------


def serve(
    run: Path,
    host: str,
    port: int,
    data: str | None = None,
    labels: str | None = None,
    names: Sequence[str] = (),
) -> None:
    """Serve the page of a model until a signal ends it; prints its address.

    What visitors upload is in a temporary folder, which goes when the server ends.

    Args:
        run: see `bigbigan.load`.
        host: the name or address to listen on.
        port: to listen on; 0 takes any that is free.
        data, labels: see `Bench`.
        names: further host names by which visitors reach the server; see `bigbigan.apps.serve_guard.Names`.

    Raises:
        UserError: gradio is missing, the address cannot be had, no such run, or unusable `data` or `labels`.
        RunError: the server did not start.
    """
    with _bound(host, port) as listener, TemporaryDirectory(prefix="bigbigan-") as folder:
        if not _is_loopback(host):
            warnings.warn(f"--host {host}: whoever reaches it can use the page, without a password", stacklevel=2)
        address, bound_port = listener.getsockname()[:2]
        allowed = Names(host, address, names)
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}  # read on import
        try:
            import gradio as gr
            import uvicorn
            from fastapi import FastAPI
        except ImportError:
            raise UserError("serve needs gradio: pip install 'bigbigan[serve]'") from None
        bench = Bench(run, data, labels, progress=True)
        theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # none that are fetched
        blocks = page(bench)
        blocks.state_session_capacity = VISITORS
        app = gr.mount_gradio_app(
            FastAPI(docs_url=None, redoc_url=None, openapi_url=None), blocks, "/",
            max_file_size=LIMITS.max_bytes, footer_links=[], run_history=False, ssr_mode=False,
            theme=theme, css=CSS,
        )  # fmt: skip
        blocks.has_launched = True  # or gradio takes any path of this machine for an upload
        # Twice the largest file: that a single file is too large is for gradio to say, on the page.
        guarded = guard(_kept_here(app), allowed, Path(folder), SUFFIXES, 2 * LIMITS.max_bytes)
        server = uvicorn.Server(uvicorn.Config(guarded, log_level="warning", timeout_graceful_shutdown=GRACE))
        listener.listen()
        print(f"http://{f'[{address}]' if ':' in address else address}:{bound_port}  (Ctrl-C ends it)", flush=True)
        ended = _run_until_signal(server, listener)
    if not ended:  # a thread that never returns would keep the interpreter from ending
        print("bigbigan: a request did not end; left it", file=sys.stderr, flush=True)
        os._exit(0)


def _run_until_signal(server: Any, listener: socket.socket, grace: float = GRACE) -> bool:
    """Run a server in a thread of its own until SIGINT or SIGTERM comes or it ends by itself.

    Signals are handled in this, the main thread, and so whatever a request does to the server's.

    Returns:
        Whether the server ended within `grace` seconds and a few more.

    Raises:
        RunError: it ended before it had started.
    """
    thread = Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    with Stop() as stop:
        thread.start()
        while thread.is_alive() and stop.signal is None:
            thread.join(0.2)
        server.should_exit = True
        thread.join(grace + 3)
    if stop.signal is None and not server.started:
        raise RunError("the server did not start; what it says is above")
    return not thread.is_alive()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bound(host: str, port: int) -> socket.socket:
    """A socket at the address, taken before anything slow is done."""
    if not 0 <= port <= 65_535:
        raise UserError(f"--port {port}: expected a number from 0 to 65535")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind)
    except OSError as error:
        raise UserError(f"--host {host}: {error.strerror}; expected an address of this machine: 127.0.0.1") from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        taken = "another program has it; choose another --port, or 0 for any that is free"
        why = taken if error.errno == errno.EADDRINUSE else error.strerror
        raise UserError(f"--host {host} --port {port} cannot be had: {why}") from None
    return bound


def _kept_here(app: Any) -> Any:
    """`app`, whose pages may ask nothing of other machines."""

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY)]
            await send(message)

        await app(scope, receive, send_with_policy)

    return wrapped
