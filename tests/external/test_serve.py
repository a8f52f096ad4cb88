"""`bigbigan serve` in a browser: every tab, images that cannot be used, and that nothing is asked of other machines."""

import re
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import sklearn
from PIL import Image
from serving import PATIENCE, Server

from bigbigan.apps.serve import ServedModel, page
from bigbigan.apps.train import train
from bigbigan.cli import main
from bigbigan.inference.loading import load
from tiny import tiny_config, write_npz

gradio = pytest.importorskip("gradio", reason="gradio is not installed: make test-interop")
api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make test-interop")

PHOTO = Path(sklearn.__file__).parent / "datasets" / "images" / "china.jpg"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_npz(tmp_path_factory.mktemp("serve") / "rows.npz")


@pytest.fixture(scope="module")
def run(data):
    train(tiny_config("training.steps=20"), str(data), data.parent / "run", progress=False)
    return data.parent / "run"


@pytest.fixture(scope="module")
def server(run, tmp_path_factory):
    server = Server(run, tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("chromium-browser")  # playwright's own where there is none
        try:
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except api.Error as error:
            pytest.skip(f"no browser: apt-get install chromium, or playwright install chromium ({error.message[:80]})")
        yield browser
        browser.close()


@pytest.fixture
def tab(browser, server):
    """The page, opened; ends with the check that it asked nothing of any other machine."""
    view = browser.new_page(viewport={"width": 1200, "height": 900})
    view.set_default_timeout(PATIENCE * 1000)
    asked = set()
    view.on("request", lambda request: asked.add(request.url))
    view.goto(server.url)
    yield view
    hosts = {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:"))}
    assert hosts == {urlsplit(server.url).netloc}
    view.close()


def picture(view, title: str):
    """The picture under a title, once it is there."""
    return view.locator(".column", has=view.get_by_text(title)).last.locator("img").first


def size(image) -> tuple[int, int]:
    image.wait_for()
    return tuple(image.evaluate("async i => { await i.decode(); return [i.naturalWidth, i.naturalHeight] }"))


def go_to(view, name: str) -> None:
    view.get_by_role("tab", name=name).click()


def give(view, path: Path) -> None:
    view.locator("input[type=file]").first.set_input_files(path)


def page_text(view) -> str:
    """What the page says went wrong; closes it."""
    message = view.locator(".toast-body").first
    message.wait_for()
    text = message.inner_text()
    view.locator(".toast-close").first.click()
    message.wait_for(state="detached")
    return text


def test_samples_appear_at_once_and_again_on_request(tab):
    samples = picture(tab, "images made from random numbers")
    assert size(samples) == (4 * 196 - 4,) * 2
    assert tab.get_by_label("Class").count() == 0  # this model is not conditional
    assert tab.locator("footer").count() == 0 or not tab.locator("footer").is_visible()
    tab.get_by_label("number input for Images").fill("4")
    before = samples.get_attribute("src")
    tab.get_by_role("button", name="Generate").click()
    tab.wait_for_function("([i, src]) => i.src != src", arg=[samples.element_handle(), before])
    assert size(samples) == (2 * 196 - 4,) * 2


def test_an_image_is_reconstructed_refined_and_compared(tab):
    go_to(tab, "Your image")
    error = tab.get_by_text(re.compile(r"^‖x − G\(E\(x\)\)‖ = \d"))
    of_example = error.inner_text()  # an example is there at once
    give(tab, PHOTO)
    api.expect(error).not_to_have_text(of_example, timeout=PATIENCE * 1000)
    assert size(tab.get_by_label("Thumbnail 1 of 12").first.locator("img")) == (96, 96)  # a file of its own
    for title in ("as the model sees it", "its reconstruction"):
        assert size(picture(tab, title)) == (192, 192)
    captions = tab.locator(".caption-label").all_inner_texts()
    distances = [float(caption.split()[0]) for caption in captions]
    assert len(distances) == 8
    assert distances == sorted(distances)
    assert {caption.split()[1] for caption in captions} <= {"0", "1", "2"}
    tab.get_by_label("number input for Steps of refinement").fill("30")
    tab.get_by_role("button", name="Refine").click()
    after = tab.get_by_text("and after 30 steps")
    after.wait_for()
    first, last = map(float, re.findall(r"= (\d+\.\d+)", after.inner_text()))
    assert last < first
    assert size(picture(tab, "refined")) == (192, 192)
    tab.get_by_label("Thumbnail 3 of 12").first.click()
    api.expect(after).to_have_count(0, timeout=PATIENCE * 1000)
    assert error.inner_text() not in (of_example, after)


def test_an_image_is_classified_by_the_head_of_an_export(browser, run, data, tmp_path):
    head, model = tmp_path / "h.safetensors", tmp_path / "model"
    assert main(["classify", str(run), "--save", str(head), "--quiet"]) == 0
    assert main(["export", str(run), "--head", str(head), "--out", str(model), "--quiet"]) == 0
    server = Server(model, tmp_path, "--data", str(data))
    try:
        view = browser.new_page(viewport={"width": 1200, "height": 900})
        view.set_default_timeout(PATIENCE * 1000)
        view.goto(server.url)
        go_to(view, "Your image")
        pixels = np.random.default_rng(0).integers(0, 60, (8, 8), dtype=np.uint8)
        pixels[4] += 180  # the bright row of class 2
        Image.fromarray(pixels).save(tmp_path / "x.png")
        give(view, tmp_path / "x.png")
        expected = load(model).predict(pixels[None, None])
        api.expect(view.get_by_test_id("label-output-value")).to_have_text(expected.names[0], timeout=PATIENCE * 1000)
        assert expected.names[0] == "2"
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)).save(tmp_path / "noise.png")
        give(view, tmp_path / "noise.png")
        view.get_by_text("unlike the training images").wait_for()
        view.close()
    finally:
        server.kill()


def test_unusable_files_are_named_and_the_page_goes_on(tab, tmp_path):
    go_to(tab, "Your image")
    error = tab.get_by_text(re.compile(r"^‖x − G\(E\(x\)\)‖ = \d"))
    of_example = error.inner_text()
    Image.new("1", (6000, 6000)).save(tmp_path / "huge.png")
    give(tab, tmp_path / "huge.png")
    assert "huge.png cannot be used: too many pixels (36.0 megapixels, limit 25" in page_text(tab)
    (tmp_path / "broken.jpg").write_bytes(PHOTO.read_bytes()[:5000])
    give(tab, tmp_path / "broken.jpg")
    assert "broken.jpg cannot be used: truncated JPEG" in page_text(tab)
    (tmp_path / "letter.png").write_text("Dear all")
    give(tab, tmp_path / "letter.png")
    assert "letter.png cannot be used: not an image" in page_text(tab)
    (tmp_path / "heavy.png").write_bytes(bytes(17 * 2**20))
    give(tab, tmp_path / "heavy.png")
    assert "exceed the maximum allowed size of 16" in page_text(tab)
    assert error.inner_text() == of_example
    give(tab, PHOTO)
    api.expect(error).not_to_have_text(of_example, timeout=PATIENCE * 1000)


def test_interpolation_is_there_at_once_and_follows_its_ends(tab):
    go_to(tab, "Interpolate")
    strip = picture(tab, "what G makes of interpolations")
    assert size(strip) == (10 * 196 - 4, 192)
    before = strip.get_attribute("src")
    tab.locator("input[type=file]").nth(-1).set_input_files(PHOTO)
    tab.wait_for_function("([i, src]) => i.src != src", arg=[strip.element_handle(), before])
    assert size(strip) == (10 * 196 - 4, 192)


def test_files_of_this_machine_are_not_handed_out(server):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{server.url}/gradio_api/file={Path(__file__).resolve()}")
    assert refused.value.code in (403, 404)
    with urllib.request.urlopen(server.url) as answer:
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]


def test_it_uses_no_network_and_leaves_no_files(server):
    assert server.end() == 0
    assert server.notes.read_text() == ""
    assert list(server.temporary.iterdir()) == []


def test_a_gan_has_the_tab_it_can_fill(data, tmp_path):
    config = tiny_config("training.steps=2", "loss.s_z=false", "loss.s_xz=false")
    train(config, str(data), tmp_path / "gan", progress=False)
    components = page(ServedModel(tmp_path / "gan")).get_config_file()["components"]
    assert [c["props"]["label"] for c in components if c["type"] == "tabitem"] == ["Sample"]


def test_a_model_told_labels_draws_the_class_that_is_asked_for(data, tmp_path):
    settings = ("loss.s_z=false", "loss.s_xz=false", "data.labels=classes")
    train(tiny_config("training.steps=2", *settings), str(data), tmp_path / "gan", progress=False)
    served = ServedModel(tmp_path / "gan")
    components = page(served).get_config_file()["components"]
    choices = next(c["props"]["choices"] for c in components if c["props"].get("label") == "Class")
    assert [tuple(choice) for choice in choices] == [("all", -1), ("0", 0), ("1", 1), ("2", 2)]
    drawn = [np.asarray(served.samples(1, 1.0, 0, label)) for label in range(3)]
    assert not np.array_equal(drawn[0], drawn[1])
