"""The published tables beside what was measured here: `bigbigan table 1|2|3|bigan`.

Ours is the median over seeds, with mean ± standard deviation where there are several; published figures are as printed.
A column compares like with like: all its figures are of one metric, data set, number of images seen and change of
settings, the group that fills most rows. Lines are of one data set where the caller says which.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import mean, median, stdev
from typing import Any

from scipy.stats import spearmanr

from bigbigan.errors import UserError
from bigbigan.evaluation.budgets import Budget, budget, chosen_settings, variants
from bigbigan.evaluation.results import transferred
from bigbigan.experiments import EXPERIMENTS

__all__ = ["FORMATS", "TABLES", "Cell", "FilledTable", "fill"]

Line = dict[str, Any]
NOT_RUN = "not run"
FROZEN = ("timm:", "hub:", "python:")


@dataclass(frozen=True)
class Row:
    """A line of a published table; `experiment` is ours for it, None where there is none to be. `feature` is what is
    scored of it instead of E's: its lines count as if they were of E's."""

    title: str
    experiment: str | None
    published: dict[str, str]
    feature: str = "avepool"


@dataclass(frozen=True)
class Column:
    """A column of a published table, and the metrics of ours that stand for it, the nearest to its protocol first."""

    title: str
    metrics: tuple[str, ...]
    untrained: bool = False  # a column of our own: the same of networks before their first step


@dataclass(frozen=True)
class Table:
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    dataset: str | None = None  # that the figures are of, where lines of others would fill the table too


def _quality(measure: str, split: str = "") -> tuple[str, ...]:
    networks = ("inception", "cifar-resnet18", "mnist-cnn", "encoder")
    return tuple(
        "_".join(filter(None, (f"{measure}{count}", split, network)))
        for network in networks
        for count in ("50k", "10k")
    )  # fmt: skip


def _of_experiments(table: str) -> Iterator[Row]:
    """The rows whose experiments say that they are of this table."""
    for e in EXPERIMENTS.values():
        if e.table_row and e.table_row.startswith(f"{table}, "):
            feature = "avepool" if e.config().has_encoder else "discriminator"
            yield Row(e.table_row.removeprefix(f"{table}, "), e.name, e.published, feature)


def _top(k: int, feature: str) -> tuple[str, ...]:
    return tuple(f"top{k}_{protocol}_{feature}" for protocol in ("sweep100k", "sweep5k", "linear"))


TABLES = {
    "1": Table(
        "Table 1: the systems, on ImageNet",
        (
            Column("IS", _quality("is")),
            Column("FID", _quality("fid", "train")),
            Column(
                "Cls.",
                (
                    "top1_table1_avepool",
                    "top1_sweep5k_avepool",
                    "top1_linear_avepool",
                    "top1_linear_avepool_10perclass",
                ),
            ),
        ),
        tuple(_of_experiments("Table 1")),
    ),
    "2": Table(
        "Table 2: linear classification on frozen features, ImageNet",
        (
            Column("AvePool top-1", _top(1, "avepool")),
            Column("AvePool top-5", _top(5, "avepool")),
            Column("BN+CReLU top-1", _top(1, "bn_crelu")),
            Column("BN+CReLU top-5", _top(5, "bn_crelu")),
            Column("untrained, BN+CReLU top-1", _top(1, "bn_crelu"), untrained=True),
        ),
        (
            Row("BiGAN, AlexNet, conv3", "bigan/imagenet", {"AvePool top-1": "31.0"}, "conv3"),
            Row("SS-GAN, ResNet-19, block 6", None, {"AvePool top-1": "38.3"}),
            Row("Motion Segmentation, ResNet-101", None, {"AvePool top-1": "27.6", "AvePool top-5": "48.3"}),
            Row("Exemplar, ResNet-101", "pretext/exemplar", {"AvePool top-1": "31.5", "AvePool top-5": "53.1"}),
            Row(
                "Relative Position, ResNet-101",
                "pretext/relative_position",
                {"AvePool top-1": "36.2", "AvePool top-5": "59.2"},
            ),
            Row("Colorization, ResNet-101", "pretext/colorization", {"AvePool top-1": "39.6", "AvePool top-5": "62.5"}),
            Row("Combination of the four, ResNet-101", "pretext/combination", {"AvePool top-5": "69.3"}),
            Row("CPC, ResNet-101", "pretext/cpc", {"AvePool top-1": "48.7", "AvePool top-5": "73.6"}),
            Row("Rotation, RevNet-50 ×4", "pretext/rotation", {"AvePool top-1": "55.4"}),
            Row(
                "Efficient CPC, ResNet-170", "pretext/efficient_cpc", {"AvePool top-1": "61.0", "AvePool top-5": "83.0"}
            ),
            Row("BigBiGAN, ResNet-50 at 128 px (Base)", "table1/base", {}),
            Row(
                "BigBiGAN, ResNet-50",
                "table1/resnet_up_encoder_lr",
                {
                    "AvePool top-1": "55.4",
                    "AvePool top-5": "77.4",
                    "BN+CReLU top-1": "56.6",
                    "BN+CReLU top-5": "78.6",
                },
            ),
            Row(
                "BigBiGAN, RevNet-50 ×4",
                "table1/revnet_x4_up_encoder_lr",
                {
                    "AvePool top-1": "60.8",
                    "AvePool top-5": "81.4",
                    "BN+CReLU top-1": "61.3",
                    "BN+CReLU top-5": "81.9",
                },
            ),
            Row("Told the classes, ResNet-50", "pretext/supervised", {}),
        ),
    ),
    "3": Table(
        "Table 3: unsupervised image generation, ImageNet at 128 px",
        (
            Column("IS", _quality("is")),
            Column("FID train", _quality("fid", "train")),
            Column("FID val", _quality("fid", "test")),
        ),
        tuple(_of_experiments("Table 3")),
    ),
    "bigan": Table(
        "BiGAN's table: 1-NN on permutation-invariant MNIST",
        (
            Column("1-NN", ("knn1_euclidean_avepool",)),
            Column("untrained", ("knn1_euclidean_avepool",), untrained=True),
            Column("1-NN on E(x)", ("knn1_euclidean_z_mean",)),
            Column("‖x − G(E(x))‖", ("reconstruction_error",)),
            Column("mismatched", ("reconstruction_error_mismatched",)),
        ),
        tuple(_of_experiments("BiGAN's table")),
        dataset="mnist",
    ),
}


@dataclass(frozen=True)
class Cell:
    published: str  # "" where the table has none
    values: list[float] = field(default_factory=list)  # ours, one a seed

    @property
    def ours(self) -> str:
        if not self.values:
            return NOT_RUN
        shown = f"{median(self.values):.2f}"
        if len(self.values) > 1:
            shown += f" ({mean(self.values):.2f} ± {stdev(self.values):.2f})"
        return shown


@dataclass(frozen=True)
class FilledTable:
    title: str
    columns: list[str]
    rows: list[tuple[str, str | None, list[Cell]]]  # title, experiment, cells
    notes: list[str]
    budgets: list[Budget | None] | None = None  # of each row of ours, in a table that shows them

    def as_dict(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "rows": [
                {
                    "row": title,
                    "experiment": experiment,
                    "columns": {
                        column: {"published": cell.published or None, "ours": cell.values or None}
                        for column, cell in zip(self.columns, cells, strict=True)
                    },
                }
                | ({} if self.budgets is None else {"budget": b._asdict() if (b := self.budgets[i]) else None})
                for i, (title, experiment, cells) in enumerate(self.rows)
            ],
            "notes": self.notes,
        }


def fill(name: str, lines: Iterable[Line], scale: int = 0, dataset: str | None = None) -> FilledTable:
    """A published table with what the result lines say of its rows.

    Args:
        name: 1, 2, 3 or bigan.
        lines: result lines, oldest first.
        scale: which size of the experiments; 0 as published.
        dataset: lines of this one alone; by default the table's own, or whichever fills most rows.

    Raises:
        UserError: no such table.
    """
    if name not in TABLES:
        raise UserError(f"table {name}: unknown; expected one of {', '.join(TABLES)}")
    table = TABLES[name]
    dataset = dataset or table.dataset
    feature = {row.experiment: row.feature for row in table.rows}
    lines = [x for x in lines if dataset in (None, x["dataset"]) and not transferred(x)]
    ours = [
        x | {"metric": x["metric"].replace(feature[x["experiment"]], "avepool")}
        for x in lines
        if x["experiment"] in feature and x.get("scale", 0) == scale
    ]
    extra: tuple[Row, ...] = ()
    if name == "2":  # encoders made elsewhere, measured by the same protocol
        frozen = dict.fromkeys(x["experiment"] for x in lines if _frozen(x))
        extra = tuple(Row(experiment, experiment, {}) for experiment in frozen)
        ours += [x for x in lines if x["experiment"] in frozen and "pixels" not in x["metric"]]
    notes: list[str] = []
    by_column, shown = [], list[list[Line]]()
    for column in table.columns:
        group = _fullest(column, [x for x in ours if column.untrained == (not x["steps"] and not _frozen(x))])
        by_column.append(_by_experiment(group))
        shown.append(group)
        if group:
            x = group[0]
            epochs = _epochs(x)
            changed = ", ".join(f"{k}={json.dumps(v)}" for k, v in x["settings"].items())
            steps = {y["steps"] for y in group if not _frozen(y)}
            length = f"{x['steps']:,} steps" if len(steps) < 2 else f"{x['images_seen']:,} images seen"
            notes.append(
                f"{column.title}: ours is {x['metric']} on {x['dataset']} ({x['split']}), {length}"
                + (f" ({epochs:g} epochs)" if epochs else "")
                + (f", {x['protocol']['references']:,} references" if _of_neighbours(x) else "")
                + (f", {changed}" if changed else "")
            )
    of_features = [
        found
        for column, found in zip(table.columns, by_column, strict=True)
        if any("avepool" in m for m in column.metrics)
    ]
    others = [row for row in table.rows if row.feature != "avepool" and any(row.experiment in c for c in of_features)]
    notes += [f"{row.title}: of {row.feature} instead of avepool" for row in others]
    rows = []
    for row in (*table.rows, *extra):
        cells = [
            Cell(row.published.get(column.title, ""), values.get(row.experiment, []))
            for column, values in zip(table.columns, by_column, strict=True)
        ]
        rows.append((row.title, row.experiment, cells))
    budgets = None
    if name == "2":
        trained = [x for column, group in zip(table.columns, shown, strict=True) if not column.untrained for x in group]
        kinds = [(g[0]["metric"] if g else "", c.untrained) for c, g in zip(table.columns, shown, strict=True)]
        rows, budgets = _with_variants(rows, trained, ours, kinds)
    for i, column in enumerate(table.columns):
        if (rho := rank_correlation(cells[i] for _, _, cells in rows)) is not None:
            count = sum(bool(c[i].published and c[i].values) for _, _, c in rows)
            notes.append(f"{column.title}: rank correlation of published and ours over {count} rows {rho:.2f}")
    title = table.title + (f"; ours at scale {scale}" if scale else "")
    return FilledTable(title, [c.title for c in table.columns], rows, notes, budgets)


def _with_variants(
    rows: list[tuple[str, str | None, list[Cell]]], shown: list[Line], lines: list[Line], kinds: list[tuple[str, bool]]
) -> tuple[list[tuple[str, str | None, list[Cell]]], list[Budget | None]]:
    """Table 2's rows with the budget of each, and beneath a row its runs that share a budget with those shown: as many
    images seen with other settings, or as many updates of E. `kinds` are each column's metric, and whether it is of
    untrained networks. Where columns are of different lengths, which the notes tell, a row has no budget."""
    shown, lines = ([x for x in of if not _frozen(x)] for of in (shown, lines))
    spent: dict[str, set[Budget | None]] = {}
    for x in shown:
        spent.setdefault(x["experiment"], set()).add(budget(x))
    others = variants(shown, lines)
    out, budgets = [], list[Budget | None]()
    for title, experiment, cells in rows:
        out.append((title, experiment, cells))
        found = spent.get(experiment or "", set())
        budgets.append(next(iter(found)) if len(found) == 1 else None)
        for variant in (v for v in others if v.experiment == experiment):
            cells = [
                Cell(
                    "",
                    _by_experiment(x for x in variant.lines if (x["metric"], not x["steps"]) == kind).get(
                        experiment, []
                    ),
                )
                for kind in kinds
            ]
            out.append((f"{title}, {variant.what}", experiment, cells))
            budgets.append(budget(variant.lines[-1]))
    return out, budgets


def _of_neighbours(x: Line) -> bool:
    return x["metric"].startswith("knn") and "references" in x.get("protocol", {})


def _frozen(x: Line) -> bool:
    return x["experiment"].startswith(FROZEN)


def _epochs(x: Line) -> float | None:
    """How often each training image was seen, where the line says how many there are: references of a nearest-neighbour
    vote (or what they were drawn from), or of image quality against the training split."""
    protocol = {} if "_test_" in x["metric"] else x.get("protocol", {})
    images = protocol.get("train_images", protocol.get("references"))
    return round(x["images_seen"] / images, 1) if images and x["images_seen"] else None


def _fullest(column: Column, lines: Sequence[Line]) -> list[Line]:
    """The lines for a column that can be compared: of one metric, data set, length and change of settings; those of
    most rows."""
    groups: dict[tuple[Any, ...], list[Line]] = {}
    for x in lines:
        if x["metric"] in column.metrics:
            settings = json.dumps(chosen_settings(x), sort_keys=True)
            references = x["protocol"]["references"] if _of_neighbours(x) else None
            key = (x["metric"], x["dataset"], x["split"], x["images_seen"], settings, references)
            groups.setdefault(key, []).append(x)

    def rank(item: tuple[tuple[Any, ...], list[Line]]) -> tuple[int, int, int]:
        key, found = item
        return len({x["experiment"] for x in found}), -column.metrics.index(key[0]), key[3]

    if not groups:
        return []
    key, found = max(reversed(groups.items()), key=rank)  # of equals the one that was begun last
    # how many images an encoder made elsewhere saw is not known (0): it joins whatever is shown of its metric and data
    return found + [x for k, more in groups.items() if k[:3] == key[:3] and not k[3] and k != key for x in more]


def _by_experiment(lines: Iterable[Line]) -> dict[str | None, list[float]]:
    """The newest value of each seed."""
    newest: dict[str, dict[int, float]] = {}
    for x in lines:
        newest.setdefault(x["experiment"], {})[x["seed"]] = x["value"]
    return {name: list(seeds.values()) for name, seeds in newest.items()}


def rank_correlation(cells: Iterable[Cell]) -> float | None:
    """Spearman's correlation of the published and our column, None of fewer than three rows or a constant column."""
    both = [(float(c.published.split()[0]), median(c.values)) for c in cells if c.published and c.values]
    if len(both) < 3 or any(len(set(side)) < 2 for side in zip(*both, strict=True)):
        return None
    return float(spearmanr(*zip(*both, strict=True)).statistic)


def _grid(table: FilledTable) -> list[list[str]]:
    """Published and ours side by side for each column, after the budget where the table shows it."""
    head = ["", *(text for column in table.columns for text in (column, "ours"))]
    body = [
        [title, *(text for c in cells for text in (c.published or "–", c.ours if experiment else "–"))]
        for title, experiment, cells in table.rows
    ]
    if table.budgets is not None:
        head[1:1] = ["images seen", "updates of E"]
        for row, spent in zip(body, table.budgets, strict=True):
            row[1:1] = spent.shown() if spent else ("–", "–")
    return [head, *body]


def as_text(table: FilledTable) -> str:
    grid = _grid(table)
    widths = [max(len(row[i]) for row in grid) for i in range(len(grid[0]))]
    lines = [
        "  ".join(
            text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in grid
    ]
    return "\n".join([table.title, "", *lines, *([""] if table.notes else []), *table.notes])


def as_markdown(table: FilledTable) -> str:
    head, *body = _grid(table)
    rows = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body)]
    return "\n".join([f"**{table.title}**", "", *rows, *(f"\n{note}." for note in table.notes)])


def as_html(table: FilledTable) -> str:
    head, *body = _grid(table)

    def row(tag: str, cells: list[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    rows = "\n".join([row("th", head), *(row("td", cells) for cells in body)])
    notes = "\n".join(f"<p>{html.escape(note)}.</p>" for note in table.notes)
    return f"<table>\n<caption>{html.escape(table.title)}</caption>\n{rows}\n</table>\n{notes}"


FORMATS: dict[str, Callable[[FilledTable], str]] = {"text": as_text, "markdown": as_markdown, "html": as_html}
