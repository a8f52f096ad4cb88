"""Write the section of settings, with the environment and the checkpoints."""

from __future__ import annotations

import json
from collections.abc import Sequence

from bigbigan.apps.report.contents import Run
from bigbigan.apps.report.markup import Html, join, missing, paragraph, table, tag
from bigbigan.experiments import EXPERIMENTS
from bigbigan.training import checkpoint as ck
from bigbigan.training.run_folder import read_environment


def settings(run: Run) -> Html:
    """Return the section."""
    now = run.config.to_dict()
    if known := EXPERIMENTS.get(run.config.experiment):  # those of other packages would run their code
        defined = known.config(run.config.scale).to_dict()
        how = "Settings that differ from the experiment are marked."
    else:
        defined, how = now, f"{run.config.experiment} is not an experiment of this package: no setting is marked."
    blocks = {}
    for group in (key for key in now if isinstance(now[key], dict)):
        rows = []
        for key, value in now[group].items():
            default = defined[group][key]
            cell = [tag("mark", json.dumps(value)), f" instead of {json.dumps(default)}"]
            rows.append((key, json.dumps(value) if value == default else tag("span", *cell)))
        blocks[group] = table([], rows)
    environment = read_environment(run.path)
    if "earlier" in environment:
        environment["earlier"] = ", ".join(e.get("started", "?") for e in environment["earlier"]) or "none"
    blocks["environment"] = table([], environment.items()) if environment else missing("Not recorded.")
    best, kept = ck.best_record(run.path) or {}, list[Sequence[object]]()
    for checkpoint in ck.checkpoints(run.path):
        problem, note = checkpoint.problem(), ""
        if problem and not checkpoint.path.exists():  # removed meanwhile by a training process
            continue
        if checkpoint.step == best.get("step"):
            note = "best by {metric}: {value:.4g}".format_map(best)
        kept.append((f"step {checkpoint.step:,}", tag("mark", f"damaged: {problem}") if problem else note))
    blocks["checkpoints"] = table([], kept) if kept else run.not_yet("None yet. To continue training: ")
    sections = (tag("section", tag("h3", name), block) for name, block in blocks.items())
    return join(paragraph(how), tag("div", *sections, classes="settings"))
