"""Write the result tables of README.md and docs/ from results/*.jsonl; nobody types a number by hand.

    python tools/render_tables.py           rewrite
    python tools/render_tables.py --check   exit 1 if a table is not what the result lines say

A table stands between `<!-- table NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from bigbigan.evaluation.metric_names import PIXELS
from bigbigan.evaluation.published_tables import as_markdown, fill, rank_correlation
from bigbigan.evaluation.records import better, chosen_settings, paired_lead, read_results, transferred
from bigbigan.experiments import EXPERIMENTS
from bigbigan.experiments.published import PUBLISHED

FEW = "top1_linear_avepool_10perclass"
ROOT = Path(__file__).parents[1]
FILES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


def newest(lines: list[dict[str, Any]], experiment: str, metric: str, trained: bool) -> dict[str, Any] | None:
    """The last line of this experiment as defined, metric and state, or None where it was not run."""
    wanted = (experiment, metric, trained)
    found = [x for x in lines if (x["experiment"], x["metric"], x["steps"] > 0) == wanted]
    found = [x for x in found if not chosen_settings(x) and not x.get("scale") and not transferred(x)]
    return found[-1] if found else None


def cell(line: dict[str, Any] | None, digits: int = 1) -> str:
    if line is None:
        return "not run"
    return f"{line['value']:.{digits}f}" + (f" ± {line['std']:.{digits}f}" if line["std"] is not None else "")


def probe_table(lines: list[dict[str, Any]], experiments: list[str]) -> str:
    """Accuracy of trained encoders beside raw pixels and untrained encoders."""
    leads = {e: lead(lines, e, "top1_linear_bn_crelu_10perclass") for e in experiments}
    if set(leads.values()) == {"–"}:  # lines older than the record of draws
        leads = {}
    out = [
        "| experiment | features | linear, all labels | linear, 10 labels a class | 5-NN, 10 labels a class |",
        "|---|---|---|---|---|",
    ]
    if leads:
        out = [out[0] + " lead over pixels |", out[1] + "---|"]
    rows = [
        ("raw pixels", "pixels", False),
        ("PCA pixels", "pca_pixels", False),
        ("E untrained", "bn_crelu", False),
        ("**E trained**", "bn_crelu", True),
    ]
    for experiment in experiments:
        for title, name, trained in rows:
            metrics = [f"top1_linear_{name}", f"top1_linear_{name}_10perclass", f"knn5_l2_{name}_10perclass"]
            cells = [cell(newest(lines, experiment, m, trained)) for m in metrics]
            line = newest(lines, experiment, metrics[0], trained)
            steps = f", {line['steps']:,} steps" if trained and line else ""
            if leads:
                cells.append(leads[experiment] if trained else "")
            out.append(f"| `{experiment}` | {title}{steps} | {' | '.join(cells)} |")
    return "\n".join(out)


def lead(lines: list[dict[str, Any]], experiment: str, metric: str) -> str:
    """By how much a trained encoder is above pixels, the better of raw and whitened ones, over draws of the same
    labelled images."""
    ours = newest(lines, experiment, metric, True)
    base = better(*(newest(lines, experiment, f"top1_linear_{name}_10perclass", False) for name in PIXELS))
    found = paired_lead(ours, base) if ours and base else None
    return f"{found[0]:+.1f} ± {found[1]:.1f}" if found else "–"


def reconstruction_table(lines: list[dict[str, Any]], experiments: list[str]) -> str:
    """Reconstruction error over that of shuffled pairs."""
    out = ["| experiment | reconstruction error / that of shuffled pairs |", "|---|---|"]
    out += [f"| `{e}` | {cell(newest(lines, e, 'reconstruction_ratio', True), 3)} |" for e in experiments]
    return "\n".join(out)


def ablation_table(lines: list[dict[str, Any]]) -> str:
    """Every measured variant: what it changes, its few-label probe and its reconstruction ratio."""
    few, ratio = "top1_linear_bn_crelu_10perclass", "reconstruction_ratio"
    groups: dict[tuple[str, int, str], dict[str, dict[str, Any]]] = {}
    for line in lines:
        short = line["experiment"] == "small/digits" and line["steps"] < 1000
        if transferred(line):
            continue
        ours = line["experiment"].startswith("small/") and line["metric"] in (few, ratio)
        chosen = chosen_settings(line)
        if ours and line["steps"] and (chosen or short):
            settings = ", ".join(f"{k}={json.dumps(v)}" for k, v in chosen.items()).replace('"', "")
            key = (line["experiment"], line["steps"], settings)
            groups.setdefault(key, {})[line["metric"]] = line
    out = ["| experiment | steps | changed | 10 labels a class | reconstruction ratio |", "|---|---|---|---|---|"]
    for (experiment, steps, settings), found in groups.items():
        changed = f"`{settings}`" if settings else "nothing"
        cells = f"{cell(found.get(few))} | {cell(found.get(ratio), 3)}"
        out.append(f"| `{experiment}` | {steps:,} | {changed} | {cells} |")
    return "\n".join(out)


def newest_by(lines: list[dict[str, Any]], *keys: str) -> dict[tuple[Any, ...], float]:
    """Value of the last line for each combination of these fields or settings."""
    return {tuple(x[k] if k in x else x["settings"].get(k) for k in keys): x["value"] for x in lines}


def table1(lines: list[dict[str, Any]]) -> str:
    """The rows of Table 1: published numbers, parameters of each network, arithmetic of a step."""
    found = newest_by([x for x in lines if x["command"].endswith("table1_costs.py")], "experiment", "metric")
    parts = ("G", "E", "D.F", "D.H", "D.J")
    out = [
        f"| experiment | IS | FID | Cls. | {' | '.join(p.removeprefix('D.') for p in parts)} | TFLOP a step |",
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


def table1_small(lines: list[dict[str, Any]]) -> str:
    """Rows of Table 1 trained scaled down: published beside ours, as `bigbigan table 1 --scale 32` prints it; without
    the runs of Base that are as short as the methods of Table 2 beside it."""
    return as_markdown(fill("1", [x for x in lines if not x["command"].startswith(TABLE2)], 32))


def table1_rates(lines: list[dict[str, Any]]) -> str:
    """Rows of Table 1 trained scaled down, at least three with equal settings: how far the order of each column agrees
    with the published one, and the few-label probe of Base beside that of its untrained E."""
    chosen = [
        x
        for x in lines
        if x["experiment"].startswith("table1/") and x["scale"] == 32 and not x["command"].startswith(TABLE2)
    ]
    columns = ("IS", "FID", "Cls.")
    head = ("changed", "data", "steps", "rows", *(f"{c}: rank correlation" for c in columns))
    out = [f"| {' | '.join(head)} | Base, 10 labels a class | untrained |", "|---" * (len(head) + 2) + "|"]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for x in chosen:
        groups.setdefault((json.dumps(chosen_settings(x)), x["dataset"]), []).append(x)
    for (settings, dataset), group in groups.items():
        base = [x for x in group if (x["experiment"], x["metric"]) == ("table1/base", FEW)]
        for steps in sorted({x["steps"] for x in group} - {0}):
            trained = [x for x in group if x["steps"] == steps]
            if (count := len({x["experiment"] for x in trained})) < 3:
                continue
            changed = ", ".join(f"`{k}={json.dumps(v)}`" for k, v in json.loads(settings).items()) or "nothing"
            cells = [changed, dataset, f"{steps:,}", str(count)]
            filled = fill("1", trained, 32)
            for column in columns:
                i = filled.columns.index(column)
                rho = rank_correlation(row[i] for _, _, row in filled.rows)
                cells.append("not run" if rho is None else f"{rho:.2f}")
            cells += [cell(last(base, lambda x, n=n: x["steps"] == n)) for n in (steps, 0)]
            out.append(f"| {' | '.join(cells)} |")
    return "\n".join(out if len(out) > 2 else [*out, "| not run" + " |" * (len(head) + 2)])


def of_table3(lines: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Lines of the rows of Table 3 trained scaled down, by experiment; those on a share of the images left out."""
    ours = [x for x in lines if x["experiment"].startswith("table3/") and x["scale"]]
    chosen = [x for x in ours if "_truncation" not in x["metric"]]
    names = [e.name for e in EXPERIMENTS.values() if e.name.startswith("table3/")]
    return {n: [x for x in chosen if x["experiment"] == n and "data.fraction" not in x["settings"]] for n in names}


def table3_more(lines: list[dict[str, Any]]) -> str:
    """KID, precision and recall of the same samples, and what E learned beside raw pixels and before its first step."""
    few = "top1_linear_{}_10perclass"
    out = [
        "| experiment | KID | precision | recall | E, 10 labels a class | untrained | raw pixels | PCA pixels |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, found in of_table3(lines).items():
        cells = []
        for measure, digits in (("kid", 4), ("precision", 3), ("recall", 3)):
            cells.append(cell(last(found, lambda x, m=measure: x["metric"].startswith(f"{m}10k_train")), digits))
        for feature, trained in (("bn_crelu", True), ("bn_crelu", False), ("pixels", False), ("pca_pixels", False)):
            line = last(found, lambda x, f=feature, t=trained: x["metric"] == few.format(f) and (x["steps"] > 0) == t)
            cells.append(cell(line) if find_encoder(name) else "–")
        out.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(out)


def find_encoder(name: str) -> bool:
    return EXPERIMENTS[name].config().has_encoder


def last(lines: list[dict[str, Any]], fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
    found = [x for x in lines if fits(x)]
    return found[-1] if found else None


def clusters(lines: list[dict[str, Any]]) -> str:
    """How far clusters of features agree with true classes."""
    pattern = re.compile(r"nmi_kmeans(\d+)_(\w+)")
    out = ["| data | encoder | steps | features | k | NMI | purity, % |", "|---|---|---|---|---|---|---|"]
    rows: dict[tuple[Any, ...], tuple[str, str]] = {}
    purities = {(x["command"], x["metric"], x["steps"]): x for x in lines if x["metric"].startswith("purity_kmeans")}
    for x in lines:
        if match := pattern.fullmatch(x["metric"]):
            k, feature = match.groups()
            encoder = "–" if feature == "pixels" else f"`{x['experiment']}`"
            steps = "–" if feature == "pixels" else f"{x['steps']:,}" if x["steps"] else "untrained"
            purity = purities[x["command"], x["metric"].replace("nmi", "purity"), x["steps"]]
            rows[x["dataset"], encoder, steps, feature, k] = (cell(x, 3), cell(purity))
    out += [f"| {' | '.join([*key, *cells])} |" for key, cells in rows.items()]
    return "\n".join(out if rows else [*out, "| not run | | | | | | |"])


def truncation(lines: list[dict[str, Any]]) -> str:
    """IS, FID, precision and recall by truncation."""
    out = ["| experiment | truncation | IS | FID | precision | recall |", "|---|---|---|---|---|---|"]
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for x in lines:
        measure, mark, level = x["metric"].partition("_truncation")
        if mark:
            found.setdefault((x["experiment"], level), {})[re.split(r"\d", measure)[0]] = x
    for (experiment, level), measures in found.items():
        digits = {"is": 2, "fid": 2, "precision": 3, "recall": 3}
        cells = [cell(measures.get(m), n) for m, n in digits.items()]
        out.append(f"| `{experiment}` | {level} | {' | '.join(cells)} |")
    return "\n".join(out if found else [*out, "| not run | | | | | |"])


def small_data(lines: list[dict[str, Any]]) -> str:
    """FID after training on a share of the images, with and without differentiable augmentation."""
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


TABLE2 = "bigbigan evaluate runs/table2"  # and then table2/, -updates/ (as many updates of E), -longer/ (others)


def of_table2(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of `tools/train_table.py 2`, at equal numbers of images seen."""
    return [x for x in lines if x["command"].startswith(f"{TABLE2}/")]


def table2_small(lines: list[dict[str, Any]]) -> str:
    """Table 2's methods trained scaled down, as `bigbigan table 2 --scale 32` prints it; without encoders made
    elsewhere."""
    return as_markdown(fill("2", [x for x in lines if x["command"].startswith(TABLE2)], 32))


def pretext_small(lines: list[dict[str, Any]]) -> str:
    """Of the same runs: right answers to the task on test images, and accuracy with 10 labels a class."""
    chosen = of_table2(lines)
    found = {(x["experiment"], x["metric"], x["steps"] > 0): x for x in chosen}
    few = "top1_linear_{}_10perclass"
    head = ("task", "right", "by chance", "10 labels a class, AvePool", "BN+CReLU", "untrained, AvePool", "BN+CReLU")
    out = [f"| experiment | {' | '.join(head)} |", "|---" * (1 + len(head)) + "|"]
    for x in chosen:
        for title, feature in (("raw pixels", "pixels"), ("PCA pixels", "pca_pixels")):
            if x["metric"] == few.format(feature):
                out.append(f"| {title} | | | | {cell(x)} | | | |")
    for experiment in dict.fromkeys(x["experiment"] for x in chosen):
        probes = [(few.format(f), trained) for trained in (True, False) for f in ("avepool", "bn_crelu")]
        cells = [cell(found.get((experiment, *probe))) for probe in probes]
        asked = [x for (e, m, _), x in found.items() if e == experiment and m.startswith("task_accuracy_")]
        tasks = [(x["metric"].removeprefix("task_accuracy_"), cell(x), f"{x['protocol']['chance']:g}") for x in asked]
        for task in tasks or [("", "", "")]:
            out.append(f"| `{experiment}` | {' | '.join(task)} | {' | '.join(cells)} |")
    return "\n".join(out if chosen else [*out, "| not run" + " |" * (1 + len(head))])


def pretext_longer(lines: list[dict[str, Any]]) -> str:
    """Tasks that take longer, on all images: right answers on test images, beside chance."""
    ours = [x for x in lines if x["command"].startswith("bigbigan evaluate runs/table2-longer/")]
    chosen = list({(x["experiment"], x["metric"], x["steps"] > 0): x for x in ours}.values())  # the last of each
    head = ("experiment", "images seen", "right", "by chance", "10 labels a class, AvePool", "untrained")
    out = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for x in chosen:
        if x["metric"].startswith("task_accuracy_"):
            few = {y["steps"] > 0: y for y in chosen if (y["experiment"], y["metric"]) == (x["experiment"], FEW)}
            probes = " | ".join(cell(few.get(trained)) for trained in (True, False))
            chance = f"{x['protocol']['chance']:g}"
            out.append(f"| `{x['experiment']}` | {x['images_seen']:,} | {cell(x)} | {chance} | {probes} |")
    return "\n".join(out if chosen else [*out, "| not run | | | | | |"])


def quality_table(lines: list[dict[str, Any]]) -> str:
    """FID, KID, precision and recall of real, blurred and random images."""
    out = ["| data | images | network | FID | KID | precision | recall |", "|---|---|---|---|---|---|---|"]
    kinds = {"test_images": "test images", "blurred_test_images": "blurred", "noise": "noise"}
    groups: dict[tuple[str, str, str], dict[str, Any]] = {}
    for x in lines:
        if x["experiment"].startswith("reference/"):
            measure, _, network = x["metric"].split("_", 2)
            groups.setdefault((x["dataset"], x["experiment"], network), {})[measure] = x
    for (dataset, experiment, network), found in groups.items():
        digits = {"fid": 2, "kid": 4, "precision": 3, "recall": 3}
        cells = [cell(found.get(f"{measure}10k"), n) for measure, n in digits.items()]
        out.append(f"| {dataset} | {kinds[experiment.removeprefix('reference/')]} | {network} | {' | '.join(cells)} |")
    return "\n".join(out if groups else [*out, "| not run | | | | | | |"])


def frozen_table(lines: list[dict[str, Any]]) -> str:
    """Every kind of probe on raw pixels and on a random ResNet."""
    chosen = [x for x in lines if x["experiment"].startswith("python:frozen_random")]
    columns = {
        "Table 1's": "top1_table1_{}",
        "sweep, 5k": "top1_sweep5k_{}",
        "logistic": "top1_linear_{}",
        "10 labels a class": "top1_linear_{}_10perclass",
        "1-NN": "knn1_l2_{}",
        "5-NN": "knn5_l2_{}",
        "25-NN, cosine": "knn25_cosine_{}",
    }
    out = [f"| data | features | {' | '.join(columns)} |", "|---|---|" + "---|" * len(columns)]
    for dataset in dict.fromkeys(x["dataset"] for x in chosen):
        features = {"raw pixels": "pixels", "PCA pixels": "pca_pixels", "AvePool": "avepool", "BN+CReLU": "bn_crelu"}
        for title, feature in features.items():
            found = {x["metric"]: x for x in chosen if x["dataset"] == dataset}
            cells = [cell(found.get(pattern.format(feature))) for pattern in columns.values()]
            out.append(f"| {dataset} | {title} | {' | '.join(cells)} |")
    return "\n".join(out if chosen else [*out, "| not run |" + " |" * (len(columns) + 1)])


def full_size_table(lines: list[dict[str, Any]]) -> str:
    """Time and memory of one real step of full-size rows."""
    chosen = [x for x in lines if x["command"].startswith("python tools/full_size_step.py")]
    found, devices = newest_by(chosen, "experiment", "metric"), {x["experiment"]: x["device"] for x in chosen}
    out = ["| experiment | device | seconds | peak memory, GiB | loss of D |", "|---|---|---|---|---|"]
    for name, device in devices.items():
        seconds, memory, loss = (found[name, m] for m in ("seconds_per_step", "peak_memory_mib", "loss_d"))
        out.append(f"| `{name}` | {device} | {seconds:.0f} | {memory / 1024:.1f} | {loss:.2f} |")
    return "\n".join(out if devices else [*out, "| not run | | | | |"])


def reversible_table(lines: list[dict[str, Any]]) -> str:
    """Memory and time of reversible blocks, activations kept and recomputed."""
    chosen = [x for x in lines if x["experiment"] == "bench/reversible"]
    found = newest_by(chosen, "metric", "encoder.keep_activations", "blocks")
    out = ["| blocks | kept: MiB, s | recomputed: MiB, s | time |", "|---|---|---|---|"]
    for blocks in sorted({x["settings"]["blocks"] for x in chosen}):
        (m0, t0), (m1, t1) = (
            [found.get((m, keep, blocks), float("nan")) for m in ("extra_memory_mib", "forward_backward_seconds")]
            for keep in (True, False)
        )
        out.append(f"| {blocks} | {m0:,.0f}, {t0:.2f} | {m1:,.0f}, {t1:.2f} | ×{t1 / t0:.2f} |")
    return "\n".join(out)


def bigan(lines: list[dict[str, Any]], dataset: str) -> str:
    """BiGAN's table as `bigbigan table bigan` prints it."""
    return as_markdown(fill("bigan", lines, dataset=dataset))


def bigan_elsewhere(lines: list[dict[str, Any]], dataset: str) -> str:
    """The same methods on a data set that nothing was published of."""
    table = fill("bigan", lines, dataset=dataset)
    out = [f"| | {' | '.join(table.columns)} |", "|---" * (len(table.columns) + 1) + "|"]
    for title, _, cells in table.rows:
        out.append(f"| {title} | {' | '.join(c.ours if c.values else '–' for c in cells)} |")
    notes = [note for note in table.notes if note.startswith(f"{table.columns[0]}: ours")]
    return "\n".join([*out, *(f"\n{note}." for note in notes)])


PRECISION, BY_EPOCH = "training.precision", "optimizer.lr_by_epoch"
BIGAN = PUBLISHED["bigan"].rows
# The GAN of a latent regressor is the GAN alone, to the bit (tests/unit/methods/test_bigan.py): its D is D.
SAME_D = {"bigan/latent_regressor": "bigan/discriminator"}
BIAS = {"discriminator.bias": True}  # the three rows with a GAN were trained with and without
LEFT_OUT, COUNT = "mnist-held-out", 10_000  # made by tools/train_table.py bigan --hold-out 10000


def row_of(line: dict[str, Any]) -> str:
    """The experiment that a line of BiGAN's table counts for."""
    name: str = line["experiment"]
    return SAME_D.get(name, name) if line["metric"].endswith("_discriminator") else name


def bigan_lines(
    lines: list[dict[str, Any]], experiment: str | None, settings: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Those of one row of BiGAN's table, as defined or with `settings`, in whatever arithmetic it was trained, and
    whether its rates fell from epoch to epoch or from step to step."""
    return [
        x for x in lines if row_of(x) == experiment and without(x, PRECISION, BY_EPOCH)["settings"] == (settings or {})
    ]


def without(line: dict[str, Any], *names: str) -> dict[str, Any]:
    """A line as if its run had these settings of its experiment."""
    return line | {"settings": {name: value for name, value in line["settings"].items() if name not in names}}


def bigan_more(lines: list[dict[str, Any]]) -> str:
    """Raw pixels, and logistic regression on the same features, for each method and data set after 15 epochs."""
    pixels = [("raw pixels", "bigan/mnist", "pixels"), ("PCA pixels", "bigan/mnist", "pca_pixels")]
    rows = [*pixels, *((r.title, str(r.experiment), r.feature) for r in BIGAN)]
    columns = ("knn1_euclidean_{}", "top1_sweep5k_{}", "top1_linear_{}_10perclass")
    out = ["| data | features | 1-NN | linear, all labels | linear, 10 labels a class |", "|---|---|---|---|---|"]
    for dataset in ("mnist", "fashion-mnist"):
        for title, experiment, feature in rows:
            found = [without(x, BY_EPOCH) for x in lines if x["dataset"] == dataset and x["steps"] in (0, 15 * 469)]
            cells = [cell(newest(found, experiment, m.format(feature), feature not in PIXELS)) for m in columns]
            out.append(f"| {dataset} | {title} | {' | '.join(cells)} |")
    return "\n".join(out)


def over_seeds(values: dict[int, float] | None) -> str:
    """The values of one seed or two, or the mean of more with their standard deviation."""
    if not values:
        return "–"
    if len(values) == 2:
        return ", ".join(f"{values[seed]:.2f}" for seed in sorted(values))
    spread = f" ± {stdev(values.values()):.2f}" if len(set(values.values())) > 1 else ""
    return f"{mean(values.values()):.2f}{spread}"


def bigan_length(lines: list[dict[str, Any]]) -> str:
    """BiGAN's table on MNIST by length of the runs and how they were trained; the published 1-NN last."""
    metrics = ("knn1_euclidean_z_mean", "reconstruction_error", "reconstruction_ratio")
    out = [
        "| | epochs | trained in; rates by | 1-NN | 1-NN on E(x) | ‖x − G(E(x))‖ | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in BIGAN:
        for title, settings in ((row.title, {}), (f"{row.title}, bias in D", BIAS)):
            found: dict[tuple[int, str], dict[str, dict[int, float]]] = {}
            for x in bigan_lines(lines, row.experiment, settings):
                if x["dataset"] == "mnist" and (x["steps"] or not settings):
                    precision = x["settings"].get(PRECISION, "float32")
                    by = "epoch" if x["settings"].get(BY_EPOCH, True) else "step"
                    group = found.setdefault((x["steps"], f"{precision}; {by}" if x["steps"] else "–"), {})
                    group.setdefault(x["metric"], {})[x["seed"]] = x["value"]
            for (steps, trained), group in sorted(found.items()):
                if (metric := f"knn1_euclidean_{row.feature}") in group:
                    cells = [over_seeds(group.get(m)) for m in (metric, *metrics)]
                    out.append(f"| {title} | {steps / 469:.0f} | {trained} | {' | '.join(cells)} |")
        out.append(f"| {row.title}, published | 400 | | {row.numbers[0]} | | | |")
    return "\n".join(out)


def bigan_left_out(lines: list[dict[str, Any]]) -> str:
    """1-NN as the authors' code scores by default, on training images left out, beside the test images: of each run
    that was scored on both, and of runs that never saw the images left out."""
    head = ("", "published", "epochs", "test images", "images left out", "the same, not trained on")
    out = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]

    def rows(
        title: str, published: str, experiment: str | None, metric: str, trained: bool,
        settings: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        found: dict[int, dict[str, dict[int, float]]] = {}
        for x in bigan_lines(lines, experiment, settings):
            left_out = x["dataset"].startswith(LEFT_OUT) and x["n"] == COUNT
            if (x["metric"], x["steps"] > 0) == (metric, trained) and (left_out or x["dataset"] == "mnist"):
                kind = "test" if not left_out else "seen" if transferred(x) else "unseen"
                epochs = round(x["steps"] / (391 if kind == "unseen" else 469))
                found.setdefault(epochs, {}).setdefault(kind, {})[x["seed"]] = x["value"]
        for epochs, group in sorted(found.items()):
            test, seen, unseen = (group.get(kind) for kind in ("test", "seen", "unseen"))
            if trained and (seen or unseen):
                cells = [over_seeds(scores) for scores in (test, seen, unseen)]
            elif not trained:  # nothing was learned from any image
                cells = [over_seeds(test), "", over_seeds(unseen)]
            else:
                continue
            out.append(f"| {title} | {published} | {epochs} | {' | '.join(cells)} |")

    rows("raw pixels", "", "bigan/mnist", "knn1_euclidean_pixels", trained=False)
    rows("untrained E", "", "bigan/mnist", "knn1_euclidean_avepool", trained=False)
    for r in BIGAN:
        metric = f"knn1_euclidean_{r.feature}"
        rows(r.title, r.numbers[0], r.experiment, metric, trained=True)
        rows(f"{r.title}, bias in D", r.numbers[0], r.experiment, metric, trained=True, settings=BIAS)
    return "\n".join(out)


def bigan_authors(lines: list[dict[str, Any]]) -> str:
    """Images left out and never seen: by the authors' own code where it was run, and ours at that length."""
    kinds: dict[str, dict[str, Any]] = {"authors": {"peer": "jeffdonahue/bigan"}, "ours": {}}
    out = [
        "| | epochs | 1-NN, their code | ours | ‖x − G(E(x))‖, theirs | ours | mismatched, theirs | ours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in BIGAN:
        found: dict[int, dict[tuple[str, str], dict[int, float]]] = {}
        for kind, settings in kinds.items():
            for x in bigan_lines(lines, r.experiment, settings):
                if x["dataset"].startswith(LEFT_OUT) and x["n"] == COUNT and not transferred(x):
                    of_epoch = found.setdefault(round(x["steps"] / 391), {})
                    of_epoch.setdefault((kind, x["metric"]), {})[x["seed"]] = x["value"]
        metrics = (f"knn1_euclidean_{r.feature}", "reconstruction_error", "reconstruction_error_mismatched")
        for epochs, group in sorted(found.items()):
            if ("authors", metrics[0]) in group:
                cells = [over_seeds(group.get((kind, m)) if epochs else None) for m in metrics[1:] for kind in kinds]
                first = [over_seeds(group.get((kind, metrics[0]))) for kind in kinds]
                out.append(f"| {r.title} | {epochs} | {' | '.join([*first, *cells])} |")
    return "\n".join(out)


def bigan_starts(lines: list[dict[str, Any]]) -> str:
    """The spread of samples after the first epoch, run by run."""
    chosen = [x for x in lines if x["metric"] == "sample_spread"]
    out = ["| | images | runs | sample spread of each |", "|---|---|---|---|"]
    for r in BIGAN:
        for title, bias in ((r.title, False), (f"{r.title}, bias in D", True)):
            for dataset, name in (("mnist", "60,000"), (f"{LEFT_OUT}-{COUNT}", "50,000")):
                found = [
                    x["value"] for x in chosen
                    if (x["experiment"], x["dataset"]) == (r.experiment, dataset)
                    and x["settings"].get("discriminator.bias", False) == bias
                ]  # fmt: skip
                if found:
                    values = ", ".join(f"{value:.2f}" for value in sorted(found))
                    out.append(f"| {title} | {name} | {len(found)} | {values} |")
    return "\n".join(out)


def latent_shift(lines: list[dict[str, Any]]) -> str:
    """Where E puts real images in the mean, and what their reconstructions make of it."""
    chosen = [x for x in lines if x["command"].startswith("python tools/latent_shift.py")]
    out = [
        "| experiment | data | mean of E(x), absolute | spread | error ratio | with the mean taken away |",
        "|---|---|---|---|---|---|",
        "| P_z | | 0 | 0.58 | | |",
    ]
    for name, dataset in dict.fromkeys((x["experiment"], x["dataset"]) for x in chosen):
        found = {x["metric"]: x for x in chosen if (x["experiment"], x["dataset"]) == (name, dataset)}
        metrics = ("latent_offset", "latent_spread", "latent_ratio", "latent_ratio_centred")
        out.append(f"| `{name}` | {dataset} | {' | '.join(cell(found[m], 2) for m in metrics)} |")
    return "\n".join(out)


def bigan_speed(lines: list[dict[str, Any]]) -> str:
    """Steps a second of bigan/mnist and of a plain loop, by device."""
    chosen = [x for x in lines if x["command"].startswith("python tools/bench_bigan.py")]
    found = newest_by(chosen, "device", "metric")
    head = ("device", "ours, steps a second", "plain", "ratio", "compiled", "over eager", "bf16", "over float32")
    out = [f"| {' | '.join(head)} |", "|---" * 8 + "|"]
    for device in dict.fromkeys(x["device"] for x in chosen):
        metrics = ("ours", "plain", "over_plain", "compiled", "compiled_over_eager", "bf16", "bf16_over_float32")
        figures = [found.get((device, f"steps_per_second_{m}")) for m in metrics]
        shown = ["not run" if v is None else f"{v:.{n}f}" for v, n in zip(figures, (1, 1, 2, 1, 2, 1, 2), strict=True)]
        out.append(f"| {device} | {' | '.join(shown)} |")
    return "\n".join(out if chosen else [*out, "| not run | | | | | | | |"])


def refinement(lines: list[dict[str, Any]]) -> str:
    """Errors of latents refined from E(x) and from random z, and how soon the first reach the last."""
    chosen = [x for x in lines if x["command"].startswith("python tools/refinement.py")]
    found = {(x["experiment"], x["metric"]): x for x in chosen}
    head = ("G(E(x))", "from E(x)", "from random z", "steps from E(x) that reach the latter")
    metrics = ("error_at_encoder", "error_from_encoder", "error_from_random", "steps_from_encoder")
    out = [f"| experiment | steps | {' | '.join(head)} |", "|---|---|---|---|---|---|"]
    for experiment in dict.fromkeys(x["experiment"] for x in chosen):
        cells = [cell(found.get((experiment, f"refine_{m}")), 0 if "steps" in m else 2) for m in metrics]
        steps = found[experiment, "refine_error_at_encoder"]["protocol"]["steps"]
        out.append(f"| `{experiment}` | {steps} | {' | '.join(cells)} |")
    return "\n".join(out if chosen else [*out, "| not run | | | | | |"])


def agreement(lines: list[dict[str, Any]]) -> str:
    """Our probes beside scikit-learn's on the same features."""
    chosen = [x for x in lines if x["command"].startswith("python tools/probe_agreement.py")]
    found = {x["metric"]: x for x in chosen}
    out = ["| metric | ours | scikit-learn |", "|---|---|---|"]
    for metric in (m for m in found if not m.endswith("_sklearn")):
        out.append(f"| `{metric}` | {cell(found[metric], 2)} | {cell(found.get(f'{metric}_sklearn'), 2)} |")
    return "\n".join(out if chosen else [*out, "| not run | | |"])


def minimal_flops(lines: list[dict[str, Any]]) -> str:
    """Arithmetic of a step against the least its game takes."""
    chosen = [x for x in lines if x["command"].startswith("python tools/minimal_flops.py")]
    found = newest_by(chosen, "experiment", "metric")
    out = ["| experiment | batch | TFLOP a step | the least | ratio |", "|---|---|---|---|---|"]
    for name, batch in {x["experiment"]: x["n"] for x in chosen}.items():
        ours, least, ratio = (
            found[name, m] for m in ("flops_per_step", "minimal_flops_per_step", "flops_over_minimal")
        )
        out.append(f"| `{name}` | {batch:,} | {ours / 1e12:.3f} | {least / 1e12:.3f} | {ratio:.3f} |")
    return "\n".join(out if chosen else [*out, "| not run | | | | |"])


def peers(lines: list[dict[str, Any]]) -> str:
    """A step of ours and of another code's on equal networks."""
    codes = {
        "biggan": "BigGAN-PyTorch, CIFAR-10",
        "bigbigan": "BigBiGAN-PyTorch, widths 4·64",
        "inception": "torch-fidelity, features for FID",
    }
    chosen = [x for x in lines if x["command"].startswith("python tools/compare_peers.py")]
    head = ("seconds for 64 images", "peak memory, MiB", "GFLOP an image", "parameters (of G)")
    out = [f"| code | device | | {' | '.join(head)} |", "|---|---|---|---|---|---|---|"]
    for peer, device in dict.fromkeys((x["settings"]["peer"], x["device"]) for x in chosen):
        found = {x["metric"]: x for x in chosen if (x["settings"]["peer"], x["device"]) == (peer, device)}
        for side in ("theirs", "ours"):
            network = "parameters_G" if f"parameters_G_{side}" in found else "parameters_network"
            names = ("seconds_per_step", "peak_memory_mib", "gflop_per_image", network)
            cells = [f"{found[f'{m}_{side}']['value']:,.{n}f}" for m, n in zip(names, (2, 0, 1, 0), strict=True)]
            out.append(f"| {codes[peer]} | {device} | {side} | {' | '.join(cells)} |")
        speed, memory = (cell(found[m], 2) for m in ("speed_over_theirs", "memory_over_theirs"))
        out.append(f"| | | | ours is {speed} times as fast | {memory} of its memory | | |")
    return "\n".join(out if chosen else [*out, "| not run | | | | | | |"])


def bench(lines: list[dict[str, Any]]) -> str:
    """Parts of a step, and its speed."""
    chosen = [x for x in lines if x["command"].startswith("bigbigan bench ")]
    parts = ("data", "discriminator_update", "encoder_generator_update", "update", "averages", "rest")
    names = ("data", "D", "G and E", "all at once", "averages", "rest")
    head = ("seconds a step", *names, "images/s", "GFLOP/s", "of a matrix product's", "peak MiB")
    out = [f"| experiment | device | {' | '.join(head)} |", "|---|---|" + "---|" * len(head)]
    groups: dict[tuple[str, str], dict[str, float]] = {}
    for x in chosen:
        settings = ", ".join(f"{k}={json.dumps(v)}" for k, v in x["settings"].items())
        scale = f" at scale {x['scale']}" if x["scale"] else ""
        title = f"`{x['experiment']}`{scale}{', ' + settings if settings else ''}"
        groups.setdefault((title, x["device"]), {})[x["metric"]] = x["value"]
    for (title, device), found in groups.items():
        whole = found["seconds_per_step"]
        shares = [f"{found[f'seconds_{p}'] / whole:.0%}" if f"seconds_{p}" in found else "–" for p in parts]
        speed = [
            f"{found['images_per_second']:,.0f}",
            f"{1000 * found['tflops']:,.0f}",
            f"{found['share_of_matmul']:.0%}",
        ]
        cells = [f"{whole:.3g}", *shares, *speed, f"{found['peak_memory_mib']:,.0f}"]
        out.append(f"| {title} | {device} | {' | '.join(cells)} |")
    return "\n".join(out if groups else [*out, "| not run |" + " |" * (len(head) + 1)])


def transfer(lines: list[dict[str, Any]], pattern: str) -> str:
    """One protocol of tools/transfer.py: rows by what was trained on, columns by what was tested on; pixels first."""
    chosen = [x for x in lines if x["command"].startswith("python tools/transfer.py")]
    datasets = list(dict.fromkeys(x["dataset"] for x in chosen))
    out = [f"| features | {' | '.join(datasets or ['–'])} |", "|---|" + "---|" * max(1, len(datasets))]
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for x in chosen:
        form = f"{x['protocol']['side']} px, {'grey' if x['protocol']['channels'] == 1 else 'colour'}"
        row = f"`{x['experiment']}` on {x['protocol']['trained_on']}, {form}"
        if x["metric"] == pattern.format("pixels"):
            rows.setdefault(f"raw pixels, {form}", {})[x["dataset"]] = x
            rows.setdefault(f"PCA pixels, {form}", {})
        elif x["metric"] == pattern.format("pca_pixels"):
            rows.setdefault(f"PCA pixels, {form}", {})[x["dataset"]] = x
        elif x["metric"] == pattern.format("bn_crelu"):
            state = f"**trained**, {x['steps']:,} steps" if x["steps"] else "untrained"
            rows.setdefault(f"{row}: {state}", {})[x["dataset"]] = x
    for row in sorted(rows, key=lambda title: "pixels, " not in title):
        out.append(f"| {row} | {' | '.join(cell(rows[row].get(name)) for name in datasets)} |")
    return "\n".join(out if chosen else [*out, "| not run | |"])


def anomaly(lines: list[dict[str, Any]]) -> str:
    """AUROC of scores, a row each, and of what is told from the run's own images, a column each."""
    rows = {
        "pixel_mean_distance": "pixels: distance to the mean training image",
        "pixel_nearest": "pixels: distance to the nearest training images",
        "feature_nearest_untrained": "E untrained: distance to the nearest training images",
        "feature_nearest_trained": "**E trained**: distance to the nearest training images",
        "reconstruction": "reconstruction alone (α = 1)",
        "discriminator": "D alone (α = 0)",
        "minus_score_x": "−s_x",
        "minus_score_z": "−s_z",
        "minus_score_xz": "−s_xz",
        "anomaly_score": "`anomaly_score` (α = 0.9)",
    }
    chosen = [x for x in lines if x["command"].startswith("python tools/anomaly.py")]
    kinds = list(dict.fromkeys(x["protocol"]["anomalies"] for x in chosen))
    found = {x["metric"]: x for x in chosen}
    out = [f"| score | {' | '.join(kinds)} |", "|---|" + "---|" * len(kinds)]
    for name, title in rows.items():
        out.append(f"| {title} | {' | '.join(cell(found.get(f'auroc_{kind}_{name}')) for kind in kinds)} |")
    return "\n".join(out if chosen else ["| score | |", "|---|---|", "| not run | |"])


def classifiers(lines: list[dict[str, Any]], dataset: str) -> str:
    """What `bigbigan classify` measured on a data set: classifiers by number of labels, baselines first."""
    chosen = [x for x in lines if x["dataset"] == dataset and x["command"].startswith("bigbigan classify")]
    found = {(x["metric"], x["steps"] > 0): x for x in chosen}
    rows = {
        "raw pixels, linear": ("frozen_pixels", False),
        "PCA pixels, linear": ("frozen_pca_pixels", False),
        "E untrained, linear": ("frozen_bn_crelu", False),
        "E's network trained on these labels alone": ("scratch", False),
        "**E trained without labels**, linear": ("frozen_bn_crelu", True),
        "**E trained without labels**, fine-tuned": ("finetuned", True),
    }
    sizes = {"10perclass": "10 a class", "50perclass": "50 a class", "100percent": "all"}
    out = [
        "| labels | classifier | accuracy | mean over classes | AUROC | lead over pixels in AUROC |",
        "|---|---|---|---|---|---|",
    ]
    for (size, labels), (title, (name, trained)) in product(sizes.items(), rows.items()):
        if not (ours := found.get((f"auroc_{name}_{size}", trained))):
            if name == "frozen_pca_pixels" and (f"auroc_frozen_pixels_{size}", False) in found:
                out.append(f"| {labels} | {title} | not run | not run | not run |  |")
            continue
        cells = [cell(found[f"{score}_{name}_{size}", trained]) for score in ("top1", "balanced")]
        pixels = [found.get((f"auroc_frozen_{feature}_{size}", False)) for feature in PIXELS]
        base = better(*pixels)
        lead = paired_lead(ours, base) if base and ours not in pixels else None
        cells += [cell(ours, 3), f"{lead[0]:+.3f} ± {lead[1]:.3f}" if lead else ""]
        out.append(f"| {labels} | {title} | {' | '.join(cells)} |")
    return "\n".join(out if len(out) > 2 else [*out, "| not run | | | | | |"])


SMALL = ["small/digits", "small/mnist", "small/fashion_mnist", "small/cifar10"]


def data_speed(lines: list[dict[str, Any]]) -> str:
    """What one core reads and decodes, beside what steps consume."""
    chosen = [x for x in lines if x["experiment"] == "bench/data"]
    found = {(x["dataset"], x["metric"]): x for x in chosen}
    rows = {
        "files of a folder, images/s and core": "images_per_core_second_folder",
        "shards of the files, against the folder": "speed_of_shards_over_folder",
        "shards of `--resolution`, against the folder": "speed_of_shards_Rpx_over_folder",
        "folder, against decoding it to 146 px": "speed_of_folder_over_viewed_side",
        "stored, KiB an image": "stored_kib",
        "stored, against 146 px": "stored_over_viewed_side",
        "crops of 128 px, images/s and core": "images_per_core_second_crops",
        "crops, against cutting them from 146 px": "speed_of_crops_over_viewed_side",
        "folder, against what `small/cifar10` consumes on the core": "speed_of_folder_over_small_cifar10",
        "folder, against what `table1/base` could at most": "speed_of_folder_over_table1_base",
        "cores that `table1/base` takes at 100 TFLOP/s, folder": "cores_for_100_tflops_folder",
        "the same, shards of `--resolution`": "cores_for_100_tflops_shards_Rpx",
    }
    sets = {x["dataset"]: x["protocol"] for x in chosen}
    titles = [f"{name}, {p['median_width']:.0f}×{p['median_height']:.0f} → {p['side']} px" for name, p in sets.items()]
    out = [f"| | {' | '.join(titles or ['not run'])} |", "|---|" + "---|" * max(1, len(titles))]
    for title, metric in rows.items():
        cells = []
        for name in sets:
            value = found[name, metric]["value"]
            cells.append(f"{'×' if 'over' in metric else ''}{float(f'{value:.3g}'):,g}")
        out.append(f"| {title} | {' | '.join(cells or ['not run'])} |")
    return "\n".join(out)


def probe_speed(lines: list[dict[str, Any]]) -> str:
    """Fits of the few-label probe by the package's solver and by scikit-learn's default one, by strength."""
    chosen = [x for x in lines if x["experiment"] == "bench/probe"]
    found = newest_by(chosen, "C", "metric")
    head = ("C", "ms a fit", "scikit-learn's", "objective", "scikit-learn's", "test images classified otherwise, %")
    out = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for C in sorted({x["settings"]["C"] for x in chosen}):
        ours, theirs = (1000 * found[C, f"fit_seconds{name}"] for name in ("", "_sklearn"))
        values = (found[C, f"objective{name}"] for name in ("", "_sklearn"))
        cells = [f"{ours:.0f}", f"{theirs:,.0f}", *(f"{v:.3f}" for v in values)]
        out.append(f"| {C:g} | {' | '.join(cells)} | {found[C, 'differing_predictions_sklearn']:.1f} |")
    return "\n".join(out if chosen else [*out, "| not run" + " |" * len(head)])


TABLES = {
    "data_speed": data_speed,
    "probe_speed": probe_speed,
    "probe": lambda lines: probe_table(lines, SMALL),
    "cells": lambda lines: probe_table(lines, ["small/folder64"]),
    "ablations": ablation_table,
    "pneumonia": lambda lines: classifiers(lines, "pneumoniamnist"),
    "blood": lambda lines: classifiers(lines, "cells"),
    "bench": bench,
    "minimal_flops": minimal_flops,
    "peers": peers,
    "anomaly": anomaly,
    "refinement": refinement,
    "agreement": agreement,
    "bigan": lambda lines: bigan(lines, "mnist"),
    "bigan_authors": bigan_authors,
    "bigan_fashion": lambda lines: bigan_elsewhere(lines, "fashion-mnist"),
    "bigan_left_out": bigan_left_out,
    "bigan_length": bigan_length,
    "bigan_more": bigan_more,
    "latent_shift": latent_shift,
    "pretext_longer": pretext_longer,
    "bigan_starts": bigan_starts,
    "bigan_speed": bigan_speed,
    "table1": table1,
    "table1_small": table1_small,
    "table1_rates": table1_rates,
    "table2_small": table2_small,
    "pretext_small": pretext_small,
    "table3_small": lambda lines: as_markdown(fill("3", lines, 32)),
    "table3_more": table3_more,
    "clusters": clusters,
    "truncation": truncation,
    "small_data": small_data,
    "full_size": full_size_table,
    "reversible": reversible_table,
    "transfer_few": lambda lines: transfer(lines, "top1_linear_{}_10perclass"),
    "transfer_linear": lambda lines: transfer(lines, "top1_linear_{}"),
    "quality": quality_table,
    "frozen": frozen_table,
    "reconstruction": lambda lines: reconstruction_table(lines, SMALL),
}


def render(text: str, lines: list[dict[str, Any]]) -> str:
    """`text` with each marked table written anew."""
    return re.sub(
        r"(<!-- table (\w+) -->\n).*?(<!-- end -->)",
        lambda m: f"{m[1]}{TABLES[m[2]](lines)}\n{m[3]}",
        text,
        flags=re.DOTALL,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    lines = [line for path in sorted((ROOT / "results").glob("*.jsonl")) for line in read_results(path)]
    stale = []
    for name in FILES:
        path = ROOT / name
        before = path.read_text()
        after = render(before, lines)
        if after != before:
            stale.append(name)
            if not check:
                path.write_text(after)
    if stale:
        print(("out of date: " if check else "rewritten: ") + ", ".join(stale))
    return int(bool(stale) and check)


if __name__ == "__main__":
    sys.exit(main())
