"""Render the tables of what encoders learned and of sample quality: README.md, docs/notes/experiments.md and others."""

from __future__ import annotations

import json
import re
from itertools import product
from statistics import mean, stdev
from typing import Any

from bigbigan.config import flat, named_settings
from bigbigan.evaluation.label_curve import curve_table
from bigbigan.evaluation.metric_names import PIXELS
from bigbigan.evaluation.records import better, chosen_settings, paired_lead
from bigbigan.experiments import find
from reproduction.render.cells import FIRST_RECIPE, Line, cell, changes, newest, of_study, title_of
from reproduction.train.encoder_search import SMALLER


def probe_table(lines: list[Line], experiments: dict[str, str]) -> str:
    """Render the accuracy of trained encoders and of the baselines: pixels and untrained encoders.

    `experiments` maps each experiment to the study of its lines.
    """
    leads = {e: lead(of_study(lines, study), e, "top1_linear_bn_crelu_10perclass") for e, study in experiments.items()}
    if set(leads.values()) == {"–"}:  # lines without a record of each trial
        leads = {}
    out = [
        "| experiment | features | linear, all labels | linear, 10 labels per class | 5-NN, 10 labels per class |",
        "|---|---|---|---|---|",
    ]
    if leads:
        out = [out[0] + " lead over pixels |", out[1] + "---|"]
    rows = [
        ("raw pixels", "pixels", "pixels"),
        ("PCA pixels", "pca_pixels", "pca_pixels"),
        ("E untrained", "bn_crelu", "untrained"),
        ("**E trained**", "bn_crelu", "trained"),
    ]
    for experiment, study in experiments.items():
        ours = of_study(lines, study)
        named = title_of(experiment, newest(ours, experiment, "top1_linear_bn_crelu", "trained"))
        for title, name, subject in rows:
            trained = subject == "trained"
            metrics = [f"top1_linear_{name}", f"top1_linear_{name}_10perclass", f"knn5_l2_{name}_10perclass"]
            cells = [cell(newest(ours, experiment, m, subject)) for m in metrics]
            line = newest(ours, experiment, metrics[0], subject)
            if line is None:
                continue
            steps = f", {line['steps']:,} steps" if trained else ""
            if leads:
                cells.append(leads[experiment] if trained else "")
            out.append(f"| {named} | {title}{steps} | {' | '.join(cells)} |")
    return "\n".join(out)


def lead(lines: list[Line], experiment: str, metric: str) -> str:
    """Return how far a trained encoder is above pixels, the better of raw and whitened ones, over paired trials."""
    ours = newest(lines, experiment, metric, "trained")
    base = better(*(newest(lines, experiment, f"top1_linear_{name}_10perclass", name) for name in PIXELS))
    found = paired_lead(ours, base) if ours and base else None
    return f"{found[0]:+.1f} ± {found[1]:.1f}" if found else "–"


# Rows of the few-label curve as `evaluate` prints them: their names in these tables.
CURVE_TITLES = {"PCA-whitened pixels": "PCA pixels", "untrained E": "E untrained", "trained E": "**E trained**"}


def label_curve(lines: list[Line], study: str) -> str:
    """Render the few-label curve of a study: linear accuracy over labels per class, and over a share of all labels."""
    columns, rows = curve_table(of_study(lines, study))
    out = [f"| features | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    out += [
        f"| {CURVE_TITLES.get(title, title)} "
        f"| {' | '.join(cell(None if line is None else dict(line)) for line in row)} |"
        for title, row in rows.items()
    ]
    return "\n".join(out)


def reconstruction_table(lines: list[Line], experiments: dict[str, str]) -> str:
    """Render reconstruction errors, matched over mismatched; `experiments` as for `probe_table`."""
    out = ["| experiment | reconstruction error, matched / mismatched |", "|---|---|"]
    for e, study in experiments.items():
        if line := newest(of_study(lines, study), e, "reconstruction_ratio", "trained"):
            out.append(f"| {title_of(e, line)} | {cell(line, 3)} |")
    return "\n".join(out)


def ablation_table(lines: list[Line]) -> str:
    """Render every measured variant: what it changes, its few-label probe and its reconstruction ratio."""
    few, ratio = "top1_linear_bn_crelu_10perclass", "reconstruction_ratio"
    groups: dict[tuple[str, int, str], dict[str, Line]] = {}
    for line in of_study(lines, "ablations"):
        if line["subject"] == "trained" and line["metric"] in (few, ratio):
            settings = named_settings(changes(line)[0]).replace('"', "")
            key = (title_of(line["experiment"], line), line["steps"], settings)
            groups.setdefault(key, {})[line["metric"]] = line
    out = ["| experiment | steps | changed | 10 labels per class | reconstruction ratio |", "|---|---|---|---|---|"]
    for (title, steps, settings), found in groups.items():
        changed = f"`{settings}`" if settings else "nothing"
        cells = f"{cell(found.get(few))} | {cell(found.get(ratio), 3)}"
        out.append(f"| {title} | {steps:,} | {changed} | {cells} |")
    return "\n".join(out)


def search_table(lines: list[Line]) -> str:
    """Return the variants of the encoder search: probes on 5,000 images, and the reconstruction ratio."""
    few, every, ratio = "top1_linear_bn_crelu_10perclass", "top1_linear_bn_crelu", "reconstruction_ratio"
    trained: dict[tuple[str, int, str, int], dict[str, Line]] = {}
    untrained: dict[tuple[str, int, str], Line] = {}
    for line in of_study(lines, "encoder_search"):
        settings = named_settings(_changes(line)).replace('"', "")
        key = (line["experiment"], line["seed"], settings)
        if line["subject"] == "trained":
            trained.setdefault((*key, line["steps"]), {})[line["metric"]] = line
        elif line["metric"] == few:
            untrained[key] = line
    out = [
        "| networks of | changed | 10 labels per class | all labels "
        "| E untrained, 10 per class | reconstruction ratio |",
        "|---|---|---|---|---|---|",
    ]
    for (experiment, seed, settings, steps), found in sorted(trained.items(), key=lambda x: x[0][0], reverse=True):
        changed = _shortened(settings) + (f", seed {seed}" if seed else "")
        cells = [cell(found.get(few)), cell(found.get(every)), cell(untrained.get((experiment, seed, settings)))]
        out.append(
            f"| `{experiment}`, {steps:,} steps | {changed} | {' | '.join(cells)} | {cell(found.get(ratio), 3)} |"
        )
    return "\n".join(out)


def _shortened(settings: str) -> str:
    """Return changed settings as Markdown; the two that most variants share are "both", which the page explains."""
    changes = re.findall(r"[\w.]+=(?:\[[^]]*\]|[^,]+)", settings)
    shared = ["discriminator.joint_maps=2", "discriminator.projection=true"]
    both = set(shared) <= set(changes)
    others = ", ".join(change for change in changes if not both or change not in shared)
    return ", ".join(filter(None, ["both" * both, f"`{others}`" if others else ""])) or "nothing"


def _changes(line: Line) -> dict[str, Any]:
    """Return the settings of a line of the encoder search that its variant changes."""
    smaller = {experiment: (networks, widths) for experiment, _, networks, widths in SMALLER.values()}
    networks, widths = smaller[line["experiment"]]
    of_networks = {"training.precision": "bf16", "encoder.widths": widths}
    of_networks |= {k: v for k, v in FIRST_RECIPE[line["experiment"]].items() if k != "encoder.widths"}
    of_networks |= {name: json.loads(value) for name, _, value in (text.partition("=") for text in networks)}
    defined = flat(find(line["experiment"]).config().to_dict())
    found = {name: defined[name] for name in FIRST_RECIPE[line["experiment"]]} | chosen_settings(line)
    return {k: v for k, v in sorted(found.items()) if of_networks.get(k) != v}


def classifiers(lines: list[Line], dataset: str) -> str:
    """Render what `bigbigan classify` measured on a data set: classifiers by number of labels, baselines first."""
    chosen = [x for x in of_study(lines, "classification") if x["dataset"] == dataset]
    found = {(x["metric"], x["subject"]): x for x in chosen}
    rows = {
        "raw pixels, linear": ("frozen_pixels", "pixels"),
        "PCA pixels, linear": ("frozen_pca_pixels", "pca_pixels"),
        "E untrained, linear": ("frozen_bn_crelu", "untrained"),
        "E's network trained only on these labels": ("scratch", "untrained"),
        "**E trained without labels**, linear": ("frozen_bn_crelu", "trained"),
        "**E trained without labels**, fine-tuned": ("finetuned", "trained"),
    }
    sizes = {"10perclass": "10 per class", "50perclass": "50 per class", "100percent": "all"}
    out = [
        "| labels | classifier | accuracy | mean over classes | AUROC | lead over pixels in AUROC |",
        "|---|---|---|---|---|---|",
    ]
    for (size, labels), (title, (name, subject)) in product(sizes.items(), rows.items()):
        if not (ours := found.get((f"auroc_{name}_{size}", subject))):
            if name == "frozen_pca_pixels" and (f"auroc_frozen_pixels_{size}", "pixels") in found:
                out.append(f"| {labels} | {title} | not run | not run | not run |  |")
            continue
        cells = [cell(found[f"{score}_{name}_{size}", subject]) for score in ("top1", "balanced")]
        pixels = [found.get((f"auroc_frozen_{feature}_{size}", feature)) for feature in PIXELS]
        base = better(*pixels)
        lead = paired_lead(ours, base) if base and ours not in pixels else None
        cells += [cell(ours, 3), f"{lead[0]:+.3f} ± {lead[1]:.3f}" if lead else ""]
        out.append(f"| {labels} | {title} | {' | '.join(cells)} |")
    return "\n".join(out if len(out) > 2 else [*out, "| not run | | | | | |"])


def anomaly(lines: list[Line]) -> str:
    """Render AUROC: a row for each score, a column for each kind of anomalous images."""
    rows = {
        "pixel_mean_distance": "pixels: distance to the mean training image",
        "pixel_nearest": "pixels: distance to the nearest training images",
        "feature_nearest_untrained": "E untrained: distance to the nearest training images",
        "feature_nearest_trained": "**E trained**: distance to the nearest training images",
        "reconstruction": "only reconstruction (α = 1)",
        "discriminator": "only D (α = 0)",
        "minus_score_x": "−s_x",
        "minus_score_z": "−s_z",
        "minus_score_xz": "−s_xz",
        "anomaly_score": "`anomaly_score` (α = 0.9)",
    }
    chosen = of_study(lines, "anomaly")
    kinds = list(dict.fromkeys(x["protocol"]["anomalies"] for x in chosen))
    found = {x["metric"]: x for x in chosen}
    out = [f"| score | {' | '.join(kinds)} |", "|---|" + "---|" * len(kinds)]
    for name, title in rows.items():
        out.append(f"| {title} | {' | '.join(cell(found.get(f'auroc_{kind}_{name}')) for kind in kinds)} |")
    return "\n".join(out if chosen else ["| score | |", "|---|---|", "| not run | |"])


def unlike(lines: list[Line]) -> str:
    """Render percentages of images unlike the training images: a row for each run and features, a column for a kind."""
    rows = {"avepool": "**AvePool**", "bn_crelu": "BN+CReLU", "pixels": "pixels"}
    chosen = of_study(lines, "unlike")
    kinds = list(dict.fromkeys(x["protocol"]["images"] for x in chosen))
    out = [f"| run | features | {' | '.join(kinds)} |", "|---|---|" + "---|" * len(kinds)]
    for run in dict.fromkeys((x["experiment"], x["dataset"]) for x in chosen):
        of_run = [x for x in chosen if (x["experiment"], x["dataset"]) == run]
        steps = max(x["steps"] for x in of_run)
        found = {x["metric"]: x for x in of_run if x["steps"] in (0, steps)}  # 0: pixels
        for name, title in rows.items():
            cells = [cell(found[key]) if (key := f"unlike_{kind}_{name}") in found else "" for kind in kinds]
            out.append(f"| `{run[0]}`, {steps:,} steps | {title} | {' | '.join(cells)} |")
    return "\n".join(out if chosen else ["| run | |", "|---|---|", "| not run | |"])


def transfer(lines: list[Line], pattern: str) -> str:
    """Render one protocol: a row for each encoder and its training data, a column for each test set; pixels first."""
    chosen = of_study(lines, "transfer")
    datasets = list(dict.fromkeys(x["dataset"] for x in chosen))
    out = [f"| features | {' | '.join(datasets or ['–'])} |", "|---|" + "---|" * max(1, len(datasets))]
    rows: dict[str, dict[str, Line]] = {}
    for x in chosen:
        form = f"{x['protocol']['side']} px, {'grey' if x['protocol']['channels'] == 1 else 'colour'}"
        changed = named_settings(changes(x)[0]).replace('"', "")
        row = f"`{x['experiment']}`{f', `{changed}`,' if changed else ''} on {x['protocol']['trained_on']}, {form}"
        feature = x["subject"] if x["subject"] in PIXELS else "bn_crelu"
        if x["metric"] != pattern.format(feature):
            continue
        if x["subject"] == "pixels":
            rows.setdefault(f"raw pixels, {form}", {})[x["dataset"]] = x
            rows.setdefault(f"PCA pixels, {form}", {})
        elif x["subject"] == "pca_pixels":
            rows.setdefault(f"PCA pixels, {form}", {})[x["dataset"]] = x
        else:
            untrained = rows.setdefault(f"{row}: E untrained", {})  # its row is before that of E trained
            trained = x["subject"] == "trained"
            found = rows.setdefault(f"{row}: **E trained**, {x['steps']:,} steps", {}) if trained else untrained
            found[x["dataset"]] = x
    for row in sorted(rows, key=lambda title: "pixels, " not in title):
        if not rows[row] and "untrained" in row:
            continue
        out.append(f"| {row} | {' | '.join(cell(rows[row].get(name)) for name in datasets)} |")
    return "\n".join(out if chosen else [*out, "| not run | |"])


def frozen_table(lines: list[Line]) -> str:
    """Render every kind of probe on raw pixels and on a random ResNet."""
    chosen = [x for x in lines if x["experiment"].startswith("python:frozen_random")]
    columns = {
        "Table 1's": "top1_table1_{}",
        "sweep, 5k": "top1_sweep5k_{}",
        "logistic": "top1_linear_{}",
        "10 labels per class": "top1_linear_{}_10perclass",
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


def agreement(lines: list[Line]) -> str:
    """Render our probes and scikit-learn's on the same features."""
    chosen = of_study(lines, "probe_agreement")
    found = {x["metric"]: x for x in chosen}
    out = ["| metric | ours | scikit-learn |", "|---|---|---|"]
    for metric in (m for m in found if not m.endswith("_sklearn")):
        out.append(f"| `{metric}` | {cell(found[metric], 2)} | {cell(found.get(f'{metric}_sklearn'), 2)} |")
    return "\n".join(out if chosen else [*out, "| not run | | |"])


def quality_table(lines: list[Line]) -> str:
    """Render FID, KID, precision and recall of real, blurred and random images."""
    out = ["| data | images | network | FID | KID | precision | recall |", "|---|---|---|---|---|---|---|"]
    kinds = {"test_images": "test images", "blurred_test_images": "blurred", "noise": "noise"}
    groups: dict[tuple[str, str, str], dict[str, Any]] = {}
    for x in of_study(lines, "reference_quality"):
        measure, _, network = x["metric"].split("_", 2)
        groups.setdefault((x["dataset"], x["experiment"], network), {})[measure] = x
    for (dataset, experiment, network), found in groups.items():
        digits = {"fid": 2, "kid": 4, "precision": 3, "recall": 3}
        cells = [cell(found.get(f"{measure}10k"), n) for measure, n in digits.items()]
        out.append(f"| {dataset} | {kinds[experiment.removeprefix('reference/')]} | {network} | {' | '.join(cells)} |")
    return "\n".join(out if groups else [*out, "| not run | | | | | | |"])


def refinement(lines: list[Line]) -> str:
    """Render errors of latents optimised from E(x) and from random z, and how soon the first reach the last."""
    chosen = of_study(lines, "refinement")
    found = {(x["experiment"], x["metric"]): x for x in chosen}
    head = ("G(E(x))", "from E(x)", "from random z", "steps from E(x) that reach the latter")
    metrics = ("error_at_encoder", "error_from_encoder", "error_from_random", "steps_from_encoder")
    out = [f"| experiment | steps | {' | '.join(head)} |", "|---|---|---|---|---|---|"]
    for experiment in dict.fromkeys(x["experiment"] for x in chosen):
        cells = [cell(found.get((experiment, f"refine_{m}")), 0 if "steps" in m else 2) for m in metrics]
        steps = found[experiment, "refine_error_at_encoder"]["protocol"]["steps"]
        title = title_of(experiment, found[experiment, "refine_error_at_encoder"])
        out.append(f"| {title} | {steps} | {' | '.join(cells)} |")
    return "\n".join(out if chosen else [*out, "| not run | | | | | |"])


def clusters(lines: list[Line]) -> str:
    """Render how well clusters of features agree with true classes."""
    pattern = re.compile(r"nmi_kmeans(\d+)_(\w+)")
    out = ["| data | encoder | steps | features | k | NMI | purity, % |", "|---|---|---|---|---|---|---|"]
    rows: dict[tuple[Any, ...], tuple[str, str]] = {}
    chosen = of_study(lines, "clustering")
    purities = {(x["command"], x["metric"], x["subject"]): x for x in chosen}
    for x in chosen:
        if match := pattern.fullmatch(x["metric"]):
            k, feature = match.groups()
            encoder = "–" if x["subject"] == "pixels" else title_of(x["experiment"], x)
            steps = {"pixels": "–", "trained": f"{x['steps']:,}"}.get(x["subject"], x["subject"])
            purity = purities[x["command"], x["metric"].replace("nmi", "purity"), x["subject"]]
            rows[x["dataset"], encoder, steps, feature, k] = (cell(x, 3), cell(purity))
    out += [f"| {' | '.join([*key, *cells])} |" for key, cells in rows.items()]
    return "\n".join(out if rows else [*out, "| not run | | | | | | |"])


def precisions(lines: list[Line]) -> str:
    """Render what runs in float32 and in bfloat16 reached, by seed, and the mean of their differences."""
    chosen = [x for x in of_study(lines, "bf16") if x["subject"] == "trained"]
    metrics = {"top1_linear_bn_crelu": 1, "top1_linear_bn_crelu_10perclass": 1, "reconstruction_ratio": 3}
    found = {(x["seed"], x["settings"]["training.precision"], x["metric"]): x for x in chosen}
    out = [
        "| seed | precision | linear, all labels | linear, 10 labels per class "
        "| reconstruction, matched / mismatched |",
        "|---|---|---|---|---|",
    ]
    seeds = sorted({x["seed"] for x in chosen})
    for seed, precision in product(seeds, ("float32", "bf16")):
        cells = [cell(found.get((seed, precision, metric)), digits) for metric, digits in metrics.items()]
        out.append(f"| {seed} | {precision} | {' | '.join(cells)} |")
    differences = []
    for metric, digits in metrics.items():
        pairs = [[found.get((seed, precision, metric)) for precision in ("bf16", "float32")] for seed in seeds]
        gaps = [a["value"] - b["value"] for a, b in pairs if a and b]
        spread = f" ± {stdev(gaps):.{digits}f}" if len(gaps) > 1 else ""
        differences.append(f"{mean(gaps):+.{digits}f}{spread}" if gaps else "not run")
    return "\n".join([*out, f"| all | bf16 − float32 | {' | '.join(differences)} |"])
