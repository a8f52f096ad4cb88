"""Build the page of `serve`: gradio widgets around a `ServedModel`."""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from bigbigan.apps.serve.session import MAX_INTERPOLATION, MAX_SAMPLES, MAX_STEPS, NEIGHBOURS, ServedModel
from bigbigan.data.formats import EXTENSIONS
from bigbigan.data.markdown import plain
from bigbigan.errors import UserError

__all__ = ["CSS", "SUFFIXES", "page"]

FILES_KEPT = (60, 900)  # seconds: how often old uploads and pictures are removed, and from which age
CSS = """
.gradio-container { width: 100%; max-width: 1100px !important; margin: auto; }
.gradio-container img { image-rendering: pixelated; }
.gradio-container .grid-wrap { min-height: 0; max-height: none; overflow: hidden; }
.gradio-container .grid-container {
  grid-template-columns: repeat(auto-fill, minmax(max(56px, calc(100% / var(--grid-cols) - 16px)), 1fr));
}
.gradio-container .grid-container { grid-auto-rows: auto; }
.gradio-container .gallery-item, .gradio-container .thumbnail-item { width: 100%; height: auto; }
.gradio-container .caption-label { left: 0; right: 0; max-width: none; padding: 2px; font-size: 11px; }
"""
SUFFIXES = list(EXTENSIONS)
TOP_CLASSES = 5  # shown of an image
THUMBNAIL = 96  # side of an example, pixels
# One model, one request at a time: all events wait in the same queue.
QUEUE: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
# And one thread: gradio starts and ends threads, and each that has computed leaks some memory.
MODEL = ThreadPoolExecutor(1, thread_name_prefix="model")


def model_hangs(seconds: float = 2.0) -> bool:
    """Return whether a request still occupies the model's thread when this time has passed.

    The server may have ended: it abandons requests that take too long, but cannot end their thread.
    """
    try:
        MODEL.submit(int).result(seconds)
    except TimeoutError:
        return True
    return False


def page(served: ServedModel) -> Any:
    """Build the page as gradio `Blocks`, with the tabs that the model has networks for: a GAN only samples."""
    import gradio as gr

    name = served.model.config.experiment
    with gr.Blocks(title=f"bigbigan: {name}", analytics_enabled=False, delete_cache=FILES_KEPT) as blocks:
        gr.Markdown(f"# {plain(name)}\n{_about(served)}")
        with gr.Tab("Sample"):
            _sample_tab(gr, served, blocks)
        if served.encodes:
            with gr.Tab("Your image"):
                _image_tab(gr, served, blocks)
            with gr.Tab("Interpolate"):
                _interpolation_tab(gr, served, blocks)
    return blocks.queue(max_size=64)


def _about(served: ServedModel) -> str:
    c = served.model.config
    kind = "grey" if c.data.channels == 1 else "colour"
    takes = f"takes {kind} images of {c.encoder.resolution} px and " if served.encodes else ""
    does = f"{takes}makes {kind} images of {c.generator.resolution} px"
    no_images = "No example images and no nearest training images"
    missing = f"\n\n{no_images}: {plain(served.missing)}." if served.missing else ""
    return f"This model ({c.system}, {served.model.step:,} training steps) {does}.{missing}"


def _reporting_errors(gr: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """Run `function` in the thread of the model, and show a visitor's mistakes on the page."""

    @functools.wraps(function)
    def wrapped(*arguments: Any) -> Any:
        try:
            return MODEL.submit(contextvars.copy_context().run, function, *arguments).result()
        except UserError as error:
            raise gr.Error(str(error), duration=None, print_exception=False) from None

    return wrapped


def _picture(gr: Any, title: str) -> Any:
    """Add a picture under its title; gradio would put the title over it."""
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


def _sample_tab(gr: Any, served: ServedModel, blocks: Any) -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            count = gr.Slider(1, MAX_SAMPLES, 16, step=1, label="Images")
            truncation = gr.Slider(0.1, 1, 1, step=0.05, label="Truncation", info="below 1: more typical, less varied")
            seed = gr.Number(0, precision=0, minimum=0, label="Seed", info="the same seed draws the same images")
            choices = [("all", -1), *((name, k) for k, name in enumerate(served.classes))]
            label = gr.Dropdown(choices, value=-1, label="Class", visible=bool(served.classes))
            button = gr.Button("Generate", variant="primary")
        with gr.Column(scale=3):
            picture = _picture(gr, "**G(z)**: images made from random numbers z")

    def samples(count: float, truncation: float, seed: float, label: int) -> Image.Image:
        return served.samples(int(count), truncation, int(seed), None if label < 0 else label)

    events = [button.click, seed.submit, blocks.load]
    gr.on(events, _reporting_errors(gr, samples), [count, truncation, seed, label], picture, **QUEUE)


def _picker(gr: Any, served: ServedModel, title: str, first: int, columns: int) -> tuple[Any, list[Any]]:
    """Add widgets to choose an image; return the choice, at first an example, and the events of choosing."""
    known = list(served.examples)
    chosen = gr.State(known[min(first, len(known) - 1)] if known else None)
    gr.Markdown(title)
    file = gr.File(label=title, show_label=False, file_types=SUFFIXES, height=130)
    read = file.upload(_reporting_errors(gr, served.read), file, chosen, **QUEUE)
    for follow in (read.success, read.failure):  # clear it for the next file, even after a failure
        follow(lambda: None, None, file, api_visibility="private")
    events = [read]
    if known:
        # Of another size than all answers: gradio keeps equal pictures in one file, which each answer writes again.
        thumbnails = [served.view(x).resize((THUMBNAIL, THUMBNAIL)) for x in known]
        examples = _gallery(gr, "or click one of these", thumbnails, columns)

        def pick(event: Any) -> np.ndarray:
            return known[event.index]

        pick.__annotations__["event"] = gr.SelectData  # gradio passes arguments by annotation
        events.append(examples.select(pick, None, chosen, **QUEUE))
    return chosen, events


def _image_tab(gr: Any, served: ServedModel, blocks: Any) -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            chosen, events = _picker(gr, served, "**Your image**", 0, columns=4)
        with gr.Column(scale=3):
            with gr.Row():
                view = _picture(gr, "**x**: as the model sees it")
                reconstruction = _picture(gr, "**G(E(x))**: its reconstruction")
                refined = _picture(gr, "**G(z)**: refined")
            errors = gr.Markdown()
            outputs = [view, reconstruction, refined, errors]
            if served.classifies:
                with gr.Row():
                    with gr.Column(min_width=280):
                        classes = gr.Label(label="Class by the saved classifier", num_top_classes=TOP_CLASSES)
                    with gr.Column(min_width=280):
                        outputs += [classes, gr.Markdown()]
            with gr.Row():
                about = "z is optimised from E(x) so that G(z) comes closer to x"
                steps = gr.Slider(10, MAX_STEPS, 200, step=10, label="Steps of refinement", info=about, scale=3)
                button = gr.Button("Refine", variant="primary", scale=1)
    if served.finds_neighbours:
        title = "**Nearest training images** and their distances: 0 is equal, 1 unrelated"
        outputs.append(_gallery(gr, title, None, NEIGHBOURS))

    def show(image: np.ndarray | None) -> list[Any]:
        if image is None:
            return [None] * len(outputs)
        x_hat = served.reconstruct(image)
        found: list[Any] = [served.view(image), x_hat.picture, None, f"‖x − G(E(x))‖ = {x_hat.error:.2f}"]
        found += served.classify(image) if served.classifies else ()
        return [*found, served.neighbours(image)] if served.finds_neighbours else found

    def refine(image: np.ndarray | None, steps: float, progress: Any = gr.Progress()) -> tuple[Image.Image, str]:  # noqa: B008
        if image is None:
            raise UserError("there is no image yet; give one first")
        total, before = int(steps), served.reconstruct(image).error
        found = served.refine(image, total, lambda done: progress((done, total), desc="refining", unit="steps"))
        return found.picture, f"‖x − G(E(x))‖ = {before:.2f}, and after {total} steps ‖x − G(z)‖ = {found.error:.2f}"

    for event in events:
        event.success(_reporting_errors(gr, show), chosen, outputs, **QUEUE)
    blocks.load(_reporting_errors(gr, show), chosen, outputs, **QUEUE)
    button.click(_reporting_errors(gr, refine), [chosen, steps], [refined, errors], show_progress_on=refined, **QUEUE)


def _interpolation_tab(gr: Any, served: ServedModel, blocks: Any) -> None:
    with gr.Row():
        with gr.Column(min_width=280):
            start, from_events = _picker(gr, served, "**From**", 0, columns=6)
        with gr.Column(min_width=280):
            end, to_events = _picker(gr, served, "**To**", 3, columns=6)
    steps = gr.Slider(2, MAX_INTERPOLATION, 8, step=1, label="Images in between")
    strip = _picture(gr, "The first image, what G makes of interpolations between the two encodings, the second image")

    def interpolate(image: np.ndarray | None, other: np.ndarray | None, steps: float) -> Image.Image | None:
        return None if image is None or other is None else served.interpolate(image, other, int(steps))

    request = {"fn": _reporting_errors(gr, interpolate), "inputs": [start, end, steps], "outputs": strip, **QUEUE}
    for event in [*from_events, *to_events]:
        event.success(**request)
    steps.release(**request)
    blocks.load(**request)
