"""Write the head of the page: title, verdict, and the facts of the run."""

from __future__ import annotations

from bigbigan.apps.report.contents import Run
from bigbigan.apps.report.markup import Html, join, tag
from bigbigan.apps.report.verdict import verdict
from bigbigan.evaluation.records import Line
from bigbigan.training.run_folder import read_environment


def header(run: Run) -> Html:
    """Return the head of the page."""
    c, model, count = run.config, run.model, run.card.get("images")
    step = max([m["step"] for m in run.metrics] + [model.step if model else 0])
    seen = max([m.get("images_seen", 0) for m in run.metrics] + [model.images_seen if model else 0])
    facts = {
        "steps": f"{step:,} of {c.training.steps:,}",
        "images seen": f"{seen:,}" + (f" ({seen / count:,.1f} epochs)" if count else ""),
        "training time": _duration(run.metrics) if run.metrics else "not recorded",
        "device": read_environment(run.path).get("device", "not recorded"),
        "training images": f"{count:,}" if count else "not recorded",
        "sizes": ", ".join(
            [f"G {c.generator.resolution} px"] * c.has_generator
            + [f"E {c.encoder.resolution} px"] * c.has_encoder
            + [f"z {c.latent.dim} numbers"] * c.has_generator
        ),
    }
    if c.scale:
        facts["scaled down"] = f"{c.scale} px in place of the paper's 128"
    if model is not None:
        networks = model.networks.present()
        counts = (f"{k} {sum(p.numel() for p in network.parameters()):,}" for k, network in networks.items())
        facts["parameters"] = ", ".join(counts)
    title = tag("h1", c.experiment, " ", tag("small", "on ", run.card.get("name", "unknown data")))
    tiles = (tag("div", tag("dt", key), tag("dd", value)) for key, value in facts.items())
    return join(title, verdict(run), tag("dl", *tiles, classes="facts"))


def _duration(metrics: list[Line]) -> str:
    """Return the time spent in the training loop, from the images between log lines and their rate."""
    seconds, before = 0.0, 0
    for line in metrics:
        rate, seen = line.get("images_per_second", 0), line.get("images_seen", 0)
        if rate > 1e-6 and before < seen < 1e18:
            seconds += (seen - before) / rate
            before = seen
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if seconds > 120 else f"{seconds:.0f} s"
