"""Draw docs/pictures/serve.png: the page of `bigbigan serve`, as Chromium shows it.

    python -m reproduction.render.serve_page small/fashion_mnist --data fashion-mnist

In the environment of `make test-interop`, which has gradio and playwright. The page shows an image of the data, its
reconstruction and the latent optimisation of it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from reproduction.common import Script, serving

PATIENCE = 180_000  # milliseconds, on a machine that is busy
SIZE = {"width": 1160, "height": 790}
MARGIN = 16  # below the last row
ALL_SHOWN = "[...document.images].every(i => !i.checkVisibility() || (i.complete && i.naturalWidth))"
BOTTOM = "Math.max(...[...document.querySelectorAll('.block')].map(e => e.getBoundingClientRect().bottom))"


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__)
    add = script.parser.add_argument
    add("run", metavar="RUN")
    add("--data", metavar="SOURCE", help="example images (default: the run's own)")
    add("--example", type=int, default=9, metavar="N", help="which of the 12 examples to click (default 9)")
    add("--out", type=Path, default=Path("docs/pictures/serve.png"), metavar="PICTURE")
    return script.run(draw, arguments)


def draw(script: Script, options: argparse.Namespace) -> None:
    with serving(options.run, "--quiet", *(["--data", options.data] if options.data else [])) as (url, _):
        photograph(url, options.example, options.out)


def photograph(url: str, example: int, out: Path) -> None:
    """Refine one of the examples on the page at `url`, and write a picture of the page."""
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("chromium-browser")  # playwright's own where there is none
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        view = browser.new_page(viewport=SIZE)
        view.set_default_timeout(PATIENCE)
        view.goto(url)
        view.get_by_role("tab", name="Your image").click()
        error = view.get_by_text("‖x − G(E(x))‖ =").first
        error.wait_for()
        of_first = error.inner_text()
        view.get_by_label(f"Thumbnail {example} of 12").first.click()
        expect(error).not_to_have_text(of_first, timeout=PATIENCE)
        view.get_by_role("button", name="Refine").click()
        view.get_by_text("and after").wait_for()
        view.wait_for_function(ALL_SHOWN)
        view.wait_for_timeout(2_000)  # pictures fade in
        view.mouse.move(0, 0)
        height = view.evaluate(BOTTOM)
        view.set_viewport_size({**SIZE, "height": round(height) + MARGIN})
        view.screenshot(path=out)
        browser.close()


if __name__ == "__main__":
    sys.exit(main())
