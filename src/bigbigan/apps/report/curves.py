"""Write the section of curves: the metrics that are logged during training, and how to read them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from bigbigan.apps.report.charts import MUTED, SERIES, svg
from bigbigan.apps.report.contents import Run
from bigbigan.apps.report.markup import Html, captioned, join, key, paragraph, tag
from bigbigan.evaluation.records import Line


class Chart(NamedTuple):
    """Describe a chart of metrics over steps."""

    title: str
    keys: dict[str, str]  # of metrics.jsonl, with their names in the legend
    how: str  # how to read it, and what a bad curve looks like
    dashed: tuple[float, ...] = ()
    scale: str = "zero"  # the axis: "zero" starts at 0, "free" anywhere, "log" is logarithmic
    alarm: tuple[float, float, str] = (-math.inf, math.inf, "")  # shown if the first line ends outside these bounds


MIN_POINTS = 4  # fewer show no trend
DRAWABLE = 1e30  # larger values, and NaN, are not drawn


def _score(name: str, scored: str, bad: str) -> Chart:
    keys = {f"{name}_enc": "encoder pairs (x, E(x))", f"{name}_gen": "generator pairs (G(z), z)"}
    how = "D pushes the first above +1 and the second below −1 (dashed); G and E push back. Far apart for long: "
    return Chart(f"Score {name}, {scored}", keys, how + bad, (-1, 1), "free")


# fmt: off
CHARTS = (
    Chart("Reconstruction ratio", {"reconstruction_ratio": "matched / mismatched"},
          "Error of G(E(x)) divided by the error of another image's reconstruction. Good: below 1 and falling. Stuck "
          "at 1: E has learned nothing.", (1,), alarm=(0, 0.97, "It is near 1: E hardly distinguishes images.")),
    Chart("Reconstruction error", {"reconstruction_error": "matched",
                                   "reconstruction_error_mismatched": "mismatched"},
          "Mean ‖x − G(E(x))‖₂ with pixels in [0, 1], and the same with another image's G(E(x)). The lines should "
          "separate. If they coincide, reconstructions have nothing to do with their images."),
    Chart("Latents of E", {"z_mean_spread": "spread of z_mean", "z_stdev": "sigma"},
          "The spread of E's outputs within a batch, and the noise that E adds. The spread should approach the spread "
          "of z (dashed), and sigma should stay well below it. Spread near 0: E maps all images to one z.",
          alarm=(0.1, math.inf, "The spread is near 0: E maps nearly all images to one z.")),
    Chart("Losses", {"loss_d": "D", "loss_eg": "G and E"},
          "D's loss is 2 (dashed) if D cannot separate the two kinds of pairs, 0 if it always can, and in between in a "
          "healthy run. Near 0 for long: D has won, and G and E learn little.", (2,), "free",
          (0.1, math.inf, "D's loss is near 0: G and E learn little from it.")),
    _score("s_x", "of images", "D easily separates G's images from real ones."),
    _score("s_z", "of latents", "E's latents are not distributed like z."),
    _score("s_xz", "of pairs", "images and latents do not match."),
    Chart("Gradient norms", {"grad_norm_d": "D", "grad_norm_g": "G", "grad_norm_e": "E"},
          "On a logarithmic axis. They should settle. Rising steadily: training is about to diverge. E's near 0: E "
          "gets no gradient.", scale="log"),
    Chart("Validation metric", {"log.validation_metric": ""},
          "Measured without the test split; it selects the best step. Worse for long: an older checkpoint is better "
          "(--checkpoint best).", scale="free"),
    Chart("Speed", {"images_per_second": "images/s"}, "A long dip: another program uses the machine."),
)
# fmt: on


def _task_charts(run: Run) -> list[Chart]:
    """Return a chart for each pretext task."""
    how = "Accuracy in a training batch, and the loss. If neither improves, nothing is learned."
    keys = {"accuracy": "accuracy", "loss": "loss"}
    return [Chart(f"Task {t}", {f"{k}_{t}": name for k, name in keys.items()}, how) for t in run.config.pretext.tasks]


def _logistic(chart: Chart) -> Chart:
    """Return the chart for systems whose D has a cross-entropy loss (BiGAN and its baselines), without margins."""
    if "loss_d" in chart.keys:
        how = "A cross-entropy: D's is 0.69 (dashed) if D cannot separate the two kinds of pairs, and 0 if it always "
        how += "can. Near 0 for long: D has won, and the others learn little. An autoencoder has only its pixel error."
        return chart._replace(how=how, dashed=(math.log(2),), alarm=(0.01, math.inf, chart.alarm[2]))
    if chart.title.startswith("Score"):
        how = (
            "D pushes the first up and the second down, without a limit; at 0 (dashed) D is undecided. Far apart for "
            "long: "
        )
        return chart._replace(how=how + chart.how.partition("Far apart for long: ")[2], dashed=(0,))
    return chart


def curves(run: Run) -> Html:
    """Return the section."""
    if not run.metrics:
        return run.not_yet(f"None yet; training logs every {run.config.log.every:,} steps: ")
    if len(run.metrics) < MIN_POINTS:
        logged = (
            f"{len(run.metrics)} of at least {MIN_POINTS} points are logged, one every {run.config.log.every:,} steps"
        )
        return run.not_yet(f"Too early for curves: {logged}. To continue training: ")
    spread = 1.0 if run.config.latent.prior == "normal" else 1 / math.sqrt(3)
    validation_metric = run.config.log.validation_metric

    def adapted(chart: Chart) -> Chart:
        if "log.validation_metric" in chart.keys:
            return chart._replace(keys={validation_metric: validation_metric})
        if "z_stdev" in chart.keys:
            return chart._replace(dashed=(spread,))
        return chart if run.config.system == "bigbigan" else _logistic(chart)

    charts = (_curve(run.metrics, c) for c in [*_task_charts(run), *map(adapted, CHARTS)])
    how = "Metrics over steps: faint lines as logged, strong lines smoothed, with their last values in the legend."
    return join(paragraph(how), tag("div", *charts, classes="charts"))


def _curve(metrics: list[Line], chart: Chart) -> Html:
    series = {}
    for metric, name in chart.keys.items():
        steps, values = points(metrics, metric)
        if len(steps):
            series[name] = steps, values, smooth(values)
    if not series:
        return Html()

    def draw(axes: Any) -> None:
        for colour, (steps, values, smoothed) in zip(SERIES, series.values(), strict=False):
            axes.plot(steps, values, color=colour, lw=0.8, alpha=0.35)
            axes.plot(steps, smoothed, color=colour, lw=1.8, marker="o" if len(steps) < 12 else "", ms=3)
        for level in chart.dashed:
            axes.axhline(level, color=MUTED, lw=0.9, ls="--")
        if chart.scale == "log":
            axes.set_yscale("log")
        elif chart.scale == "zero":
            axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
        axes.xaxis.get_major_locator().set_params(nbins=5, integer=True)
        axes.xaxis.set_major_formatter(lambda step, _: f"{step / 1000:g}k" if step >= 1000 else f"{step:g}")

    last = {name: smoothed[-1] for name, (_, _, smoothed) in series.items()}
    low, high, warning = chart.alarm
    alarmed = not low <= next(iter(last.values())) <= high
    entries = (key(i, name, f"{value:.3g}") for i, (name, value) in enumerate(last.items()))
    label = f"{chart.title}; last: " + ", ".join(f"{name} {value:.3g}" for name, value in last.items())
    return captioned(
        chart.title,
        entries,
        svg(draw, label, 2.3),
        paragraph(chart.how),
        paragraph(warning, classes="warn") if alarmed else "",
    )


def points(metrics: list[Line], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps and values, each float [N], of a metric that are logged and can be drawn."""
    logged = np.array([(m["step"], m[metric]) for m in metrics if metric in m], dtype=float).reshape(-1, 2)
    steps, values = logged[np.abs(logged[:, 1]) < DRAWABLE].T
    return steps, values


def smooth(values: np.ndarray) -> np.ndarray:
    """Return the centred moving average over a twentieth of the points; the window shrinks towards the ends."""
    place, sums = np.arange(len(values)), np.concatenate([[0.0], np.cumsum(values)])
    reach = np.minimum(len(values) // 40, np.minimum(place, place[::-1]))
    return (sums[place + reach + 1] - sums[place - reach]) / (2 * reach + 1)
