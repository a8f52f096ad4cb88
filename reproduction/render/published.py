"""Render Tables 1, 2 and 3 of the paper, and more of the same runs: docs/notes/table1.md, pretext.md, table3.md."""

from __future__ import annotations

import re
from typing import Any

from bigbigan.evaluation.metric_names import PIXELS
from bigbigan.evaluation.published_tables import fill
from bigbigan.evaluation.table_formats import as_markdown
from bigbigan.experiments import EXPERIMENTS
from reproduction.render.cells import Line, cell, cell_of_seeds, changes, newest_by, of_study

FEW = "top1_linear_avepool_10perclass"
TABLE2 = ("table2", "table2_updates", "table2_longer")  # the last has the tasks that take longer


def table1(lines: list[Line]) -> str:
    """Render the rows of Table 1: published numbers, parameters of each network, arithmetic of a step."""
    found = newest_by([x for x in of_study(lines, "table1_costs") if not x["scale"]], "experiment", "metric")
    parts = ("G", "E", "D.F", "D.H", "D.J")
    out = [
        f"| experiment | IS | FID | Cls. | {' | '.join(p.removeprefix('D.') for p in parts)} | TFLOP per step |",
        "|---|---|---|---|" + "---|" * (len(parts) + 1),
    ]
    for name, e in EXPERIMENTS.items():
        if not name.startswith("table1/") or e.table_row is None:
            continue
        cells = [e.published.get(column, "–") for column in ("IS", "FID", "Cls.")]
        for part in parts:
            count = found.get((name, f"parameters_{part}"))
            cells.append("–" if count is None else f"{count / 1e6:.1f}")
        flops = found.get((name, "flops_per_step"))
        cells.append("not counted" if flops is None else f"{flops / 1e12:,.0f}")
        out.append(f"| `{name.removeprefix('table1/')}` | {' | '.join(cells)} |")
    return "\n".join(out)


PLANNED_STEPS = 6_000
THREE_SEEDS = (
    "base", "deterministic_encoder", "uniform_prior", "x_unary_only", "z_unary_only", "no_unaries", "small_g_32",
    "high_res_e", "hinge_of_sum",
)  # fmt: skip


def table1_plan(lines: list[Line]) -> str:
    """Render the core-hours of Table 1 at scale 16, from counted FLOPs and the speed of `bench small/mnist`."""
    counted = [x for x in of_study(lines, "table1_costs") if x["scale"] == 16]
    flops = newest_by(counted, "experiment", "metric")
    rate = newest_by([x for x in of_study(lines, "bench") if not changes(x)[0]], "experiment", "metric").get(
        ("small/mnist", "tflops")
    )
    out = ["| rows | GFLOP per step | seeds | core-hours |", "|---|---|---|---|"]
    if rate is None or not counted:
        return "\n".join([*out, "| not counted | | | |"])
    groups: dict[tuple[float, int], list[str]] = {}
    for experiment in dict.fromkeys(x["experiment"] for x in counted):
        name = experiment.removeprefix("table1/")
        key = flops[experiment, "flops_per_step"] / 1e9, 3 if name in THREE_SEEDS else 1
        groups.setdefault(key, []).append(f"`{name}`")
    total = 0.0
    for (gflop, seeds), names in groups.items():
        hours = len(names) * seeds * PLANNED_STEPS * gflop / (1000 * rate) / 3600
        total += hours
        out.append(f"| {', '.join(names)} | {gflop:.1f} | {seeds} | {hours:.1f} |")
    return "\n".join([*out, f"| all | | | {total:.0f} |"])


def table1_small(lines: list[Line]) -> str:
    """Render rows of Table 1 trained scaled down, as `bigbigan table 1 --scale 16` prints it.

    Runs of Base that are as short as those of Table 2 are omitted.
    """
    return as_markdown(fill("1", [x for x in lines if not x["study"].startswith("table2")], 16))


def of_table3(lines: list[Line]) -> dict[str, list[Line]]:
    """Return the lines of the rows of Table 3 trained scaled down on all images, by experiment."""
    ours = [x for x in lines if x["experiment"].startswith("table3/") and x["scale"]]
    chosen = [x for x in ours if x["study"] != "truncation"]
    names = [e.name for e in EXPERIMENTS.values() if e.name.startswith("table3/")]
    return {n: [x for x in chosen if x["experiment"] == n and "data.fraction" not in x["settings"]] for n in names}


def table3_more(lines: list[Line]) -> str:
    """Render KID, precision and recall of the same samples; the few-label probe of E, and of the baselines."""
    few = "top1_linear_{}_10perclass"
    out = [
        "| experiment | KID | precision | recall | E, 10 labels per class | E untrained | raw pixels | PCA pixels |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, found in of_table3(lines).items():
        usual = min((x["steps"] for x in found if x["steps"]), default=0)  # one row of the table is a longer training
        found = [x for x in found if x["steps"] in (0, usual)]
        cells = []
        for measure, digits in (("kid", 4), ("precision", 3), ("recall", 3)):
            cells.append(cell_of_seeds([x for x in found if x["metric"].startswith(f"{measure}10k_train")], digits))
        for subject in ("trained", "untrained", *PIXELS):
            metric = few.format(subject if subject in PIXELS else "bn_crelu")
            of_subject = [x for x in found if (x["metric"], x["subject"]) == (metric, subject)]
            cells.append(cell_of_seeds(of_subject) if EXPERIMENTS[name].config().has_encoder else "–")
        out.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(out)


def table3_small(lines: list[Line]) -> str:
    """Render rows of Table 3 trained scaled down, as `bigbigan table 3 --scale 16` prints it."""
    return as_markdown(fill("3", lines, 16))


def truncation(lines: list[Line]) -> str:
    """Render IS, FID, precision and recall by truncation."""
    out = ["| experiment | truncation | IS | FID | precision | recall |", "|---|---|---|---|---|---|"]
    found: dict[tuple[str, int, str], dict[str, Any]] = {}
    for x in of_study(lines, "truncation"):
        measure, _, level = x["metric"].partition("_truncation")
        found.setdefault((x["experiment"], x["steps"], level), {})[re.split(r"\d", measure)[0]] = x
    for (experiment, steps, level), measures in found.items():
        digits = {"is": 2, "fid": 2, "precision": 3, "recall": 3}
        cells = [cell(measures.get(m), n) for m, n in digits.items()]
        out.append(f"| `{experiment}`, {steps:,} steps | {level} | {' | '.join(cells)} |")
    return "\n".join(out if found else [*out, "| not run | | | | | |"])


def small_data(lines: list[Line]) -> str:
    """Render FID after training on a share of the images, with and without differentiable augmentation."""
    out = ["| data | experiment | steps | images | augmented for D | FID | KID |", "|---|---|---|---|---|---|---|"]
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for x in lines:
        share = x["settings"].get("data.fraction")
        measure = x["metric"].split("10k_train_")[0]
        if share and measure in ("fid", "kid"):
            augment = ", ".join(x["settings"].get("discriminator.augment", [])) or "no"
            key = (x["dataset"], f"`{x['experiment']}`", f"{x['steps']:,}", f"{share:.0%}", augment)
            rows.setdefault(key, {})[measure] = x
    out += [f"| {' | '.join(key)} | {cell(m.get('fid'), 2)} | {cell(m.get('kid'), 4)} |" for key, m in rows.items()]
    return "\n".join(out if rows else [*out, "| not run | | | | | | |"])


def table2_small(lines: list[Line]) -> str:
    """Render Table 2's methods trained scaled down, as `bigbigan table 2 --scale 32` prints it.

    External encoders are omitted.
    """
    return as_markdown(fill("2", of_study(lines, *TABLE2), 32))


def pretext_small(lines: list[Line]) -> str:
    """Render the same runs at equal numbers of images: task accuracy on test images, and the few-label probes."""
    chosen = of_study(lines, "table2")
    found = {(x["experiment"], x["metric"], x["subject"]): x for x in chosen}
    few = "top1_linear_{}_10perclass"
    head = (
        "task",
        "accuracy",
        "chance",
        "10 labels per class, AvePool",
        "BN+CReLU",
        "E untrained, AvePool",
        "BN+CReLU",
    )
    out = [f"| experiment | {' | '.join(head)} |", "|---" * (1 + len(head)) + "|"]
    for x in chosen:
        for title, feature in (("raw pixels", "pixels"), ("PCA pixels", "pca_pixels")):
            if x["metric"] == few.format(feature):
                out.append(f"| {title} | | | | {cell(x)} | | | |")
    for experiment in dict.fromkeys(x["experiment"] for x in chosen):
        probes = [(few.format(f), subject) for subject in ("trained", "untrained") for f in ("avepool", "bn_crelu")]
        cells = [cell(found.get((experiment, *probe))) for probe in probes]
        asked = [x for (e, m, _), x in found.items() if e == experiment and m.startswith("task_accuracy_")]
        tasks = [(x["metric"].removeprefix("task_accuracy_"), cell(x), f"{x['protocol']['chance']:g}") for x in asked]
        for task in tasks or [("", "", "")]:
            out.append(f"| `{experiment}` | {' | '.join(task)} | {' | '.join(cells)} |")
    return "\n".join(out if chosen else [*out, "| not run" + " |" * (1 + len(head))])


def pretext_longer(lines: list[Line]) -> str:
    """Render tasks that take longer, on all images: accuracy on test images, and by chance."""
    ours = of_study(lines, "table2_longer")
    chosen = list({(x["experiment"], x["metric"], x["subject"]): x for x in ours}.values())  # the last of each
    head = ("experiment", "images seen", "accuracy", "chance", "10 labels per class, AvePool", "E untrained")
    out = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for x in chosen:
        if x["metric"].startswith("task_accuracy_"):
            few = {y["subject"]: y for y in chosen if (y["experiment"], y["metric"]) == (x["experiment"], FEW)}
            probes = " | ".join(cell(few.get(subject)) for subject in ("trained", "untrained"))
            chance = f"{x['protocol']['chance']:g}"
            out.append(f"| `{x['experiment']}` | {x['images_seen']:,} | {cell(x)} | {chance} | {probes} |")
    return "\n".join(out if chosen else [*out, "| not run | | | | | |"])
