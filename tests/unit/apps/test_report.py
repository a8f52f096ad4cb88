"""The report: whole and self-contained, its numbers those of the result lines, and written whatever is missing."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from bigbigan.apps.report import (
    curves,
    data_card,
    feature_map,
    neighbours,
    probe,
    samples,
    shown_images,
    write_report,
)
from bigbigan.apps.report.contents import gather
from bigbigan.apps.report.markup import Html
from bigbigan.apps.report.page import SECTIONS
from bigbigan.apps.report.verdict import verdict
from bigbigan.apps.train import train
from bigbigan.errors import UserError
from bigbigan.evaluation.records import ResultLine, append_results
from bigbigan.experiments import find
from tiny import tiny_config, write_npz

SETTINGS = ("training.steps=6", "log.every=1", "log.pictures_every=2", "log.validate_every=6", "log.checkpoint_every=3")


OURS = {
    "a", "b", "body", "code", "dd", "details", "div", "dl", "dt", "figcaption", "figure", "footer", "h1", "h2", "h3",
    "head", "html", "img", "link", "mark", "meta", "nav", "p", "section", "small", "span", "style", "summary", "table",
    "tbody", "td", "th", "thead", "title", "tr",
}  # fmt: skip


class Page(HTMLParser):
    """Reads a page and fails on tags that do not match."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open, self.tags, self.rows = [], [], []
        self.texts = {}  # by section title
        self.title = ""
        self.feed(self.source)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)
        if tag == "h2":
            self.title = None
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.title is None:
            self.title = text
        if self.open and self.open[-1] != "style":
            self.texts[self.title] = self.texts.get(self.title, "") + text
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += text

    def text(self, section=""):
        return " ".join(self.texts[section].split())

    def named(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def line(metric, value, std=None, steps=6, dataset="rows", split="test", n=600, study="evaluation", **more):
    pixels = next((name for name in ("pca_pixels", "pixels") if name in metric), None)
    subject = pixels or ("trained" if steps else "untrained")
    return ResultLine(
        study=study, subject=subject, scale=0,
        experiment="small/digits", settings={}, table_row=None, dataset=dataset, split=split, metric=metric,
        value=value, std=std, n=n, seed=0, steps=steps, images_seen=48 * steps, device="cpu", seconds=1.0,
        commit="", command="bigbigan evaluate", **more,
    )  # fmt: skip


def few(trained, pixels, untrained):
    """Result lines of the probe with 10 labels per class; each argument is a value and a deviation."""
    lines = (("bn_crelu", *trained, 6), ("pixels", *pixels, 0), ("bn_crelu", *untrained, 0))
    return [line(f"top1_linear_{name}_10perclass", v, std, steps) for name, v, std, steps in lines]


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    data = write_npz(folder / "rows.npz")
    train(tiny_config(*SETTINGS), str(data), folder / "run", progress=False)
    return folder / "run"


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def no_charts(monkeypatch):
    """Charts take most of the time; where they are not what is tested, they are left out."""
    for section in (curves, feature_map, probe):
        monkeypatch.setattr(section, "svg", lambda draw, label, height: Html())


# -- the page -----------------------------------------------------------------------------------------------


def test_page_is_whole_and_needs_nothing_else(run):
    lines = [line("top1_linear_bn_crelu", 91.25), line("top1_linear_pixels", 80, steps=0)]
    append_results(run / "results.jsonl", lines)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    path = write_report(run)
    assert path == run / "report.html"
    page = Page(path)
    assert list(page.texts)[1:] == [title for title in SECTIONS if title != "Pretext tasks"]
    assert "://" not in page.source
    assert page.named("script") == []
    for image in page.named("img"):
        assert image["alt"]
        assert re.match(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/]+=*$", image["src"])
    assert len(page.named("svg")) == 12  # one chart of the probe, a map of features, ten of curves
    assert all(svg["aria-label"] and svg["viewbox"] for svg in page.named("svg"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [attributes[k] for _, attributes in page.tags for k in ("href", "xlink:href") if k in attributes]
    assert {t for t in targets if t != "data:,"} <= {f"#{i}" for i in ids}
    assert len(page.source) < 2**20
    assert "#00000" not in page.source  # every colour is one of the page's
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p != path} == before


def test_facts_are_those_of_the_run(run, no_charts):
    page = Page(write_report(run))
    text = page.text()
    assert "small/digits on rows" in text
    for fact in ("steps6 of 6", "images seen288 (4.8 epochs)", "training images60", "G 8 px, E 8 px, z 8 numbers"):
        assert fact in text
    assert re.search(r"parametersG [\d,]+, E [\d,]+, D [\d,]+", text)
    assert "step 2" in page.text("Samples over time")
    assert "step 6" in page.text("Reconstructions")
    assert "best by top1_linear_bn_crelu_10perclass" in page.text("Settings")
    assert ["0", "20", "20", ""] in page.rows  # a class, its images in train and test
    assert "60 images, 8×8 px, 60 grey, labelled" in page.text("Data")
    assert "Training used no labels" in page.text("Data")


def test_settings_that_differ_are_marked_and_no_others(run, no_charts):
    marked = [row[0] for row in Page(write_report(run)).rows if len(row) == 2 and "instead of" in row[1]]
    config, usual = tiny_config(*SETTINGS).to_dict(), find("small/digits").config().to_dict()
    differ = [key for group in config if isinstance(config[group], dict) for key in config[group]
              if config[group][key] != usual[group][key]]  # fmt: skip
    assert marked == differ
    assert "steps" in marked
    assert "lr_g" not in marked


def test_at_most_six_samples_from_first_to_last(run, no_charts):
    for step in range(100, 1000, 100):
        shutil.copy(run / "samples" / "samples-00000002.png", run / "samples" / f"samples-{step:08d}.png")
    (run / "samples" / "samples-00000500.png").write_bytes(b"torn")
    (run / "samples" / "samples-best.png").write_bytes(b"not ours")
    steps = re.findall(r"step (\d+)", Page(write_report(run)).text("Samples over time"))
    assert len(steps) == 6
    assert {"2", "900"} <= set(steps)
    assert steps[0] == "900"  # large, first
    assert "500" not in steps


def test_wide_grids_fall_into_halves_that_fit_a_phone():
    wide = Image.new("RGB", (16 * 34 - 2, 4 * 34 - 2))
    assert [half.size for half in samples._halves(wide)] == [(8 * 34 - 2, 4 * 34 - 2)] * 2
    square = Image.new("RGB", (270, 270))
    assert samples._halves(square) == [square]


# -- numbers ------------------------------------------------------------------------------------------------


def test_numbers_are_those_of_the_newest_result_lines(run, no_charts):
    old = [line("top1_linear_pixels", 11.1, steps=0), line("top1_linear_bn_crelu", 22.2, steps=3)]
    new = [
        line("top1_linear_pixels", 81.14, steps=0),
        line("top1_linear_pca_pixels", 72.25, steps=0),
        line("top1_linear_bn_crelu", 70.06, steps=0),
        line("top1_linear_bn_crelu", 91.26),
        line("knn5_l2_bn_crelu_10perclass", 55.55, 2.34),
        line("reconstruction_ratio", 0.8642),
        line("top1_linear_bn_crelu", 33.3, dataset="elsewhere"),
    ]
    append_results(run / "results.jsonl", old + new)
    with (run / "results.jsonl").open("a") as file:
        file.write('{"metric": "torn\n[1]\n' + json.dumps(asdict(line("fid", 1.0)) | {"value": "much"}) + "\n")
    page = Page(write_report(run))
    assert ["raw pixels", "81.1", "not run", "not run", "not run"] in page.rows
    assert ["PCA-whitened pixels", "72.2", "not run", "not run", "not run"] in page.rows
    assert ["untrained E, BN+CReLU", "70.1", "not run", "not run", "not run"] in page.rows
    assert ["trained E, BN+CReLU", "91.3", "not run", "not run", "55.5 ± 2.3"] in page.rows
    assert ["reconstruction_ratio", "0.8642", "trained", "rows", "test", "600", "6"] in page.rows
    assert ["top1_linear_bn_crelu", "33.3", "trained", "elsewhere", "test", "600", "6"] in page.rows
    assert "3 damaged lines" in page.text("What the encoder learned")
    assert "11.1" not in page.source
    assert "22.2" not in page.source


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (few((90, 1), (80, 1), (70, 1)), "It worked: .* With up to 10 labels for each class, .* 90.0 ± 1.0 % on 600 "
         r"unseen images: 10.0 points above raw pixels \(80.0\), more than two .*; 20.0 points above the untrained"),
        (few((82, 1), (80, 1), (70, 1)), r"not clearly better.*2.0 points above raw pixels \(80.0\), less than two"),
        ([*few((82, 1), (80, 1), (70, 1)), line("top1_linear_pca_pixels_10perclass", 85, 1, steps=0)],
         r"they are no better than pixels.* 3.0 points below PCA-whitened pixels \(85.0\)"),
        ([*few((90, 1), (80, 1), (70, 1)), line("top1_linear_pca_pixels_10perclass", 75, 1, steps=0)],
         r"It worked.* 10.0 points above raw pixels \(80.0\)"),
        (few((82, 1), (81, 1), (70, 1)), r"Training improved the features clearly; they are not clearly better than"),
        (few((80.02, 1), (80, 1), (70, 1)), r"they are no better than pixels .* equal to raw pixels \(80.0\); 1"),
        (few((75, 1), (80, 1), (70, 1)), r"they are no better than pixels .* 5.0 points below raw pixels"),
        (few((90, 1), (80, 1), (95, 9)), "not better .* yet.*5.0 points below the untrained encoder .*, less than two"),
        ([x for x in few((90, 1), (80, 1), (70, 1)) if x.subject != "pixels"],
         "Training improved the features clearly; they were not compared with pixels. .* raw pixels not measured"),
        (few((90, 1), (80, 1), (70, 1))[:2], "not clearly better .* so far.*untrained encoder not measured"),
        ([line("reconstruction_ratio", 0.75)], "No verdict on the features.* mismatched: 0.750 .*1 = nothing learned"),
        ([line("reconstruction_ratio", 0.75, steps=3)], "Measured at step 3; the checkpoint shown is of step 6: bigb"),
        # neither trials of other labels, nor too few test images, nor a single trial are compared as if they were clear
        ([*few((90, 1), (80, 1), (70, 1))[::2], line("top1_linear_pixels_10perclass", 80, 1, steps=0, n=500)],
         "they were not compared with pixels.* raw pixels not measured"),
        ([replace(x, n=40) for x in few((90, 1), (80, 1), (70, 1))],
         r"10.0 points above raw pixels \(80.0\), which so few test images do not settle; 20.0 points .* more than"),
        (few((90, None), (80, None), (70, None)), "not clearly better.* 10.0 points above .*, from one choice of"),
        # what is measured later on other images of the same data hides nothing
        ([*few((90, 1), (80, 1), (70, 1)), line("nmi_kmeans10_avepool", 0.5, split="train", study="clustering"),
          line("top1_head", 85.0, split="folds", study="classification")], "It worked: "),
        ([replace(x, split="held_out") for x in few((90, 1), (80, 1), (70, 1))], "on 600 images held out with their"),
        ([], "Not evaluated yet. To measure .* bigbigan evaluate .*in the last batch logged"),
        ([line("reconstruction_ratio", 0.75, dataset="elsewhere")], "Not evaluated yet"),
    ],
)  # fmt: skip
def test_verdict_follows_from_the_numbers(run, lines, expected):
    append_results(run / "results.jsonl", lines)
    text = re.sub("<[^>]*>", "", verdict(gather(run, None)))
    assert re.search(expected, " ".join(text.split())), text


def test_neighbours_are_the_nearest_and_counted(run, monkeypatch):
    # Features that are the rows' brightness: then the neighbours are of the query's class, all of them.
    rows = lambda e, x: {"bn_crelu": x.mean((1, 3)) ** 8}  # noqa: E731
    monkeypatch.setattr(shown_images, "encoder_features", rows)
    text = neighbours.neighbours(gather(run, None))
    assert "Images of the test split on the left, and the nearest to each among 60 training images" in text
    assert "64 of 64 neighbours have their query" in text
    assert "by chance 21" in text
    assert text.count('class="tile same"') == 64


def test_neighbours_without_labels_and_without_test_split(run, tmp_path):
    folder = tmp_path / "flat"
    folder.mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    (folder / "torn.png").write_bytes((folder / "0.png").read_bytes()[:40])
    known = gather(run, str(folder))
    text = neighbours.neighbours(known)
    assert "Training images on the left" in text
    assert "class" not in re.sub("class=|<[^>]*>", "", text)
    card = data_card.data_card(known)
    assert "torn.png" in card
    assert "These are not the images the run was trained on" in card


def test_smoothing_keeps_level_and_slope():
    values = 3 + 0.5 * np.arange(200.0)
    np.testing.assert_allclose(curves.smooth(values), values)
    noise = np.random.default_rng(0).normal(size=2000)
    assert curves.smooth(noise).std() < 0.2
    assert curves.smooth(np.array([2.0])) == [2.0]


def test_training_logs_what_the_charts_show(run):
    logged = {key for text in (run / "metrics.jsonl").read_text().splitlines() for key in json.loads(text)}
    shown = {key for chart in curves.CHARTS for key in chart.keys}
    assert shown - logged == {"log.validation_metric"}  # it stands for the metric of the run


def test_curves_of_a_long_run_stay_small():
    noise = np.random.default_rng(0).normal(size=20_000)
    metrics = [{"step": 50 * i, "loss_d": v, "loss_eg": -v} for i, v in enumerate(noise)]
    assert 5_000 < len(curves._curve(metrics, next(c for c in curves.CHARTS if c.title == "Losses"))) < 300_000


@pytest.mark.parametrize(("ratio", "warned"), [(0.99, True), (0.8, False)])
def test_a_curve_that_ends_badly_is_said(ratio, warned, no_charts):
    metrics = [{"step": i, "reconstruction_ratio": ratio} for i in range(5)]
    assert ("E hardly distinguishes images" in curves._curve(metrics, curves.CHARTS[0])) == warned


# -- what is missing or damaged -----------------------------------------------------------------------------


def test_just_begun(run, no_charts):
    for path in run.iterdir():
        if path.name != "config.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = Page(write_report(run))
    assert "Not evaluated yet" in page.text()
    for section in ("Samples over time", "Reconstructions", "Curves", "Settings"):
        assert f"bigbigan train --out {run}" in page.text(section)
    assert "has no checkpoint yet" in page.text("Nearest neighbours")
    assert "the run has no data.json" in page.text("Data")


def damage_checkpoints(run):
    for path in run.glob("checkpoints/*/weights.safetensors"):
        path.write_bytes(b"\0" * 100)


def move_data(run):
    card = json.loads((run / "data.json").read_text()) | {"spec": "gone/away.npz"}
    (run / "data.json").write_text(json.dumps(card))


@pytest.mark.parametrize(
    ("change", "section", "expected"),
    [
        (lambda run: (run / "metrics.jsonl").unlink(), "Curves", "None yet; .* every 1 steps: bigbigan train"),
        (lambda run: (run / "metrics.jsonl").write_text("torn"), "Curves", "None yet"),
        (lambda run: shutil.rmtree(run / "samples"), "Samples over time", "None yet.* train --out .*run"),
        (lambda run: (run / "samples" / "data.png").unlink(), "Samples over time", "step 6"),
        (
            lambda run: shutil.rmtree(run / "checkpoints"),
            "Nearest neighbours",
            "Not available: .* has no checkpoint yet",
        ),
        (damage_checkpoints, "Nearest neighbours", "Not available: no checkpoint .* is valid"),
        (damage_checkpoints, "Settings", "step 6 ?damaged: weights.safetensors"),
        (
            move_data,
            "Nearest neighbours",
            "Not available, as the images were not found: .*gone/away.npz.* --data SOURCE",
        ),
        (move_data, "Data", "The images were not read: .*gone/away.npz"),
        (lambda run: (run / "data.json").write_text("[]"), "Data", "the run has no data.json"),
        (lambda run: (run / "environment.json").unlink(), "Settings", "Not recorded."),
        (lambda run: (run / "results.jsonl").touch(), "What the encoder learned", "Not measured .* bigbigan evaluate"),
    ],
)
@pytest.mark.filterwarnings("ignore:damaged checkpoint")
def test_what_is_missing_is_said(run, no_charts, change, section, expected):
    change(run)
    page = Page(write_report(run))
    assert re.search(expected, page.text(section)), page.text(section)
    assert list(page.texts)[1:] == [title for title in SECTIONS if title != "Pretext tasks"]


def test_more_images_than_are_looked_at(run, no_charts, monkeypatch):
    monkeypatch.setattr(data_card, "MAX_INSPECTED", 100)
    assert "To inspect them: bigbigan data inspect" in Page(write_report(run)).text("Data")


def test_many_classes_are_cut_down_and_counted():
    counts = {f"c{i}": i for i in range(50)}
    text = data_card._classes({"train": {"classes": counts}, "test": {"classes": None}})
    assert "Not shown: 30 classes" in text
    assert text.count("<tr>") == 1 + 20
    assert "c49" in text
    assert "c25" not in text


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_text("a file")])
def test_not_a_run_is_one_line(tmp_path, make):
    make(tmp_path / "x")
    with pytest.raises(UserError, match=r"^[^\n]+$"):
        write_report(tmp_path / "x")


def test_a_page_that_cannot_be_written_is_one_line(run, no_charts):
    (run / "report.html").mkdir()
    with pytest.raises(UserError, match=r"report.html cannot be written: .*irectory"):
        write_report(run)


# -- hostile names ------------------------------------------------------------------------------------------


def test_names_cannot_become_markup(run, tmp_path, no_charts):
    evil = "</style><script>alert(1)<!--\"'\ud800"
    folder = tmp_path / "<script>data"
    for kind in ("<img src=x onerror=alert(1)>", "plain"):
        (folder / kind).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(np.full((8, 8), 40 * i, np.uint8)).save(folder / kind / f"{i}<b>.png")
    (folder / "plain" / "<script>torn.png").write_bytes(b"\x89PNG\r\n")
    card = {"spec": str(folder), "name": evil, "images": 8, "skipped": [[evil, evil]], "notes": {evil: 1}}
    (run / "data.json").write_text(json.dumps(card))
    (run / "environment.json").write_text(json.dumps({"device": evil, evil: evil}))
    (run / "checkpoints" / "best.json").write_text(json.dumps({"step": 6, "metric": evil, "value": 1.0}))
    append_results(run / "results.jsonl", [line(evil, 1.0, dataset=evil, split=evil)])
    for source in (None, str(tmp_path / "<i>none")):
        page = Page(write_report(run, source))
        assert {tag for tag, _ in page.tags} <= OURS
        assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
        assert "alert(1)" in page.text()


def test_a_conditional_run_shows_labels_of_g_and_d(tmp_path):
    settings = ("training.steps=2", "loss.s_z=false", "loss.s_xz=false", "data.labels=classes")
    run = tmp_path / "run"
    train(tiny_config(*settings), str(write_npz(tmp_path / "rows.npz")), run, progress=False)
    page = Page(write_report(run))
    assert "G and D were trained with labels of 3 classes" in page.source
    assert "used no labels" not in page.source
    assert any(values.get("alt") == "training images by class" for tag, values in page.tags if tag == "img")
