"""Render the tables of BiGAN and its baselines: docs/notes/bigan.md."""

from __future__ import annotations

from statistics import mean, stdev
from typing import Any

from bigbigan.evaluation.metric_names import PIXELS
from bigbigan.evaluation.published_tables import fill
from bigbigan.evaluation.records import transferred
from bigbigan.evaluation.table_formats import as_markdown
from bigbigan.experiments.published import PUBLISHED
from reproduction.render.cells import Line, cell, newest, of_study

EPOCHS_15 = 15 * 469  # steps


PRECISION, BY_EPOCH = "training.precision", "optimizer.lr_by_epoch"
BIGAN = PUBLISHED["bigan"].rows
# The GAN of a latent regressor equals the GAN without E, to the bit (tests/unit/methods/test_bigan.py): its D is D.
SAME_D = {"bigan/latent_regressor": "bigan/discriminator"}
BIAS = {"discriminator.bias": True}  # the three rows with a GAN were trained with and without it
HELD_OUT, COUNT = "mnist-held-out", 10_000  # made by reproduction/train/table.py bigan --hold-out 10000


def row_of(line: dict[str, Any]) -> str:
    """Return the experiment that a line of BiGAN's table counts for."""
    name: str = line["experiment"]
    return SAME_D.get(name, name) if line["metric"].endswith("_discriminator") else name


def bigan_lines(lines: list[Line], experiment: str | None, settings: dict[str, Any] | None = None) -> list[Line]:
    """Return the lines of one row of BiGAN's table, as defined or with `settings`.

    They may be trained in any precision, with rates that fall by epoch or by step.
    """
    return [
        x for x in lines if row_of(x) == experiment and without(x, PRECISION, BY_EPOCH)["settings"] == (settings or {})
    ]


def without(line: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return a line without these changed settings."""
    return line | {"settings": {name: value for name, value in line["settings"].items() if name not in names}}


def bigan(lines: list[Line], dataset: str) -> str:
    """Render BiGAN's table as `bigbigan table bigan` prints it."""
    return as_markdown(fill("bigan", lines, dataset=dataset))


def bigan_other_data(lines: list[Line], dataset: str) -> str:
    """Render the same methods on a data set without published numbers."""
    table = fill("bigan", lines, dataset=dataset)
    out = [f"| | {' | '.join(table.columns)} |", "|---" * (len(table.columns) + 1) + "|"]
    for title, _, cells in table.rows:
        out.append(f"| {title} | {' | '.join(c.ours if c.values else '–' for c in cells)} |")
    notes = [note for note in table.notes if note.startswith(f"{table.columns[0]}: ours")]
    return "\n".join([*out, *(f"\n{note}." for note in notes)])


def bigan_more(lines: list[Line]) -> str:
    """Render raw pixels, and logistic regression on the same features, for each method and data set after 15 epochs."""
    pixels = [("raw pixels", "bigan/mnist", "pixels"), ("PCA pixels", "bigan/mnist", "pca_pixels")]
    rows = [*pixels, *((r.title, str(r.experiment), r.feature) for r in BIGAN)]
    columns = ("knn1_euclidean_{}", "top1_sweep5k_{}", "top1_linear_{}_10perclass")
    out = ["| data | features | 1-NN | linear, all labels | linear, 10 labels per class |", "|---|---|---|---|---|"]
    for dataset in ("mnist", "fashion-mnist"):
        for title, experiment, feature in rows:
            found = [without(x, BY_EPOCH) for x in lines if x["dataset"] == dataset and x["steps"] in (0, EPOCHS_15)]
            subject = feature if feature in PIXELS else "trained"
            cells = [cell(newest(found, experiment, m.format(feature), subject)) for m in columns]
            out.append(f"| {dataset} | {title} | {' | '.join(cells)} |")
    return "\n".join(out)


def over_seeds(values: dict[int, float] | None) -> str:
    """Return the values of one or two seeds, or the mean of more with their standard deviation."""
    if not values:
        return "–"
    if len(values) == 2:
        return ", ".join(f"{values[seed]:.2f}" for seed in sorted(values))
    spread = f" ± {stdev(values.values()):.2f}" if len(set(values.values())) > 1 else ""
    return f"{mean(values.values()):.2f}{spread}"


def bigan_length(lines: list[Line]) -> str:
    """Render BiGAN's table on MNIST by length of the runs and by how they were trained; the published 1-NN last."""
    metrics = ("knn1_euclidean_z_mean", "reconstruction_error", "reconstruction_ratio")
    out = [
        "| | epochs | trained in; rates by | 1-NN | 1-NN on E(x) | ‖x − G(E(x))‖ | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in BIGAN:
        for title, settings in ((row.title, {}), (f"{row.title}, bias in D", BIAS)):
            found: dict[tuple[int, str], dict[str, dict[int, float]]] = {}
            for x in bigan_lines(lines, row.experiment, settings):
                if x["dataset"] == "mnist" and (x["subject"] == "trained" or not settings):
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


def bigan_left_out(lines: list[Line]) -> str:
    """Render 1-NN on the test images, and as the authors' code scores by default, on held-out training images.

    There is a row for each run that was scored on both, and for runs that never saw the held-out images.
    """
    head = ("", "published", "epochs", "test images", "held-out images", "held-out images, not trained on")
    out = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]

    def rows(
        title: str, published: str, experiment: str | None, metric: str, subject: str,
        settings: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        found: dict[int, dict[str, dict[int, float]]] = {}
        for x in bigan_lines(lines, experiment, settings):
            held_out = x["dataset"].startswith(HELD_OUT) and x["n"] == COUNT
            if (x["metric"], x["subject"]) == (metric, subject) and (held_out or x["dataset"] == "mnist"):
                kind = "test" if not held_out else "seen" if transferred(x) else "unseen"
                epochs = round(x["steps"] / (391 if kind == "unseen" else 469))
                found.setdefault(epochs, {}).setdefault(kind, {})[x["seed"]] = x["value"]
        for epochs, group in sorted(found.items()):
            test, seen, unseen = (group.get(kind) for kind in ("test", "seen", "unseen"))
            if subject == "trained" and (seen or unseen):
                cells = [over_seeds(scores) for scores in (test, seen, unseen)]
            elif subject != "trained":  # nothing was learned from any image
                cells = [over_seeds(test), "", over_seeds(unseen)]
            else:
                continue
            out.append(f"| {title} | {published} | {epochs} | {' | '.join(cells)} |")

    rows("raw pixels", "", "bigan/mnist", "knn1_euclidean_pixels", "pixels")
    rows("E untrained", "", "bigan/mnist", "knn1_euclidean_avepool", "untrained")
    for r in BIGAN:
        metric = f"knn1_euclidean_{r.feature}"
        rows(r.title, r.numbers[0], r.experiment, metric, "trained")
        rows(f"{r.title}, bias in D", r.numbers[0], r.experiment, metric, "trained", BIAS)
    return "\n".join(out)


def bigan_authors(lines: list[Line]) -> str:
    """Render held-out images: the authors' own code, if it was run, and ours at that length."""
    kinds: dict[str, dict[str, Any]] = {"authors": {"peer": "jeffdonahue/bigan"}, "ours": {}}
    out = [
        "| | epochs | 1-NN, their code | ours | ‖x − G(E(x))‖, theirs | ours | mismatched, theirs | ours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in BIGAN:
        found: dict[int, dict[tuple[str, str], dict[int, float]]] = {}
        for kind, settings in kinds.items():
            for x in bigan_lines(lines, r.experiment, settings):
                if x["dataset"].startswith(HELD_OUT) and x["n"] == COUNT and not transferred(x):
                    of_epoch = found.setdefault(round(x["steps"] / 391), {})
                    of_epoch.setdefault((kind, x["metric"]), {})[x["seed"]] = x["value"]
        metrics = (f"knn1_euclidean_{r.feature}", "reconstruction_error", "reconstruction_error_mismatched")
        for epochs, group in sorted(found.items()):
            if ("authors", metrics[0]) in group:
                cells = [over_seeds(group.get((kind, m)) if epochs else None) for m in metrics[1:] for kind in kinds]
                first = [over_seeds(group.get((kind, metrics[0]))) for kind in kinds]
                out.append(f"| {r.title} | {epochs} | {' | '.join([*first, *cells])} |")
    return "\n".join(out)


def bigan_starts(lines: list[Line]) -> str:
    """Render the spread of samples after the first epoch, run by run."""
    chosen = of_study(lines, "bigan_starts")
    out = ["| | images | runs | sample spread of each |", "|---|---|---|---|"]
    for r in BIGAN:
        for title, bias in ((r.title, False), (f"{r.title}, bias in D", True)):
            for dataset, name in (("mnist", "60,000"), (f"{HELD_OUT}-{COUNT}", "50,000")):
                found = [
                    x["value"] for x in chosen
                    if (x["experiment"], x["dataset"]) == (r.experiment, dataset)
                    and x["settings"].get("discriminator.bias", False) == bias
                ]  # fmt: skip
                if found:
                    values = ", ".join(f"{value:.2f}" for value in sorted(found))
                    out.append(f"| {title} | {name} | {len(found)} | {values} |")
    return "\n".join(out)


def latent_shift(lines: list[Line]) -> str:
    """Render the mean of the latents of real images, and what it costs their reconstructions."""
    chosen = of_study(lines, "latent_shift")
    out = [
        "| experiment | data | mean of E(x), absolute | spread | error ratio | with the mean subtracted |",
        "|---|---|---|---|---|---|",
        "| P_z | | 0 | 0.58 | | |",
    ]
    for name, dataset in dict.fromkeys((x["experiment"], x["dataset"]) for x in chosen):
        found = {x["metric"]: x for x in chosen if (x["experiment"], x["dataset"]) == (name, dataset)}
        metrics = ("latent_offset", "latent_spread", "latent_ratio", "latent_ratio_centred")
        out.append(f"| `{name}` | {dataset} | {' | '.join(cell(found[m], 2) for m in metrics)} |")
    return "\n".join(out)
