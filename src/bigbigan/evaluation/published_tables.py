"""Fill the published tables with what was measured here: `bigbigan table 1|2|3|bigan`.

Our value is the median over seeds; if there are several, with mean ± standard deviation. Published numbers are as
printed. All our values in a column are comparable: they share one metric, data set, number of images seen, change of
settings and, for image quality, feature extractor; of several such groups, the one that fills most rows is shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import mean, median, stdev
from typing import Any

from bigbigan.config import named_settings
from bigbigan.errors import UserError
from bigbigan.evaluation.rank_correlation import rank_correlation
from bigbigan.evaluation.records import Line, chosen_settings, transferred
from bigbigan.evaluation.training_budget import Budget, budget, variants
from bigbigan.experiments import EXPERIMENTS
from bigbigan.experiments.published import PUBLISHED, PublishedRow, PublishedTable

__all__ = ["TABLES", "Cell", "FilledTable", "fill", "fullest_scale", "pairs"]

NOT_RUN = "not run"


@dataclass(frozen=True)
class Column:
    """Describe a column of a published table, and our metrics for it, the one nearest to its protocol first."""

    title: str
    metrics: tuple[str, ...]
    untrained: bool = False  # a column that the paper does not have: the same metric of untrained networks

    @property
    def subjects(self) -> tuple[str, ...]:
        """The subjects of the lines that fill the column."""
        return ("untrained",) if self.untrained else ("trained", "external")


@dataclass(frozen=True)
class Table:
    """Describe a published table, the columns that fill it, and rows of our own, which are shown if measured."""

    published: PublishedTable
    columns: tuple[Column, ...]
    ours: tuple[PublishedRow, ...] = ()
    dataset: str | None = None  # of the published numbers, if lines of other data sets would fill the table too

    @property
    def title(self) -> str:
        """Name and title of the published table."""
        return f"{self.published.name}: {self.published.title}"


def _quality(measure: str, split: str = "") -> tuple[str, ...]:
    networks = ("inception", "cifar-resnet18", "mnist-cnn", "encoder")
    return tuple(
        "_".join(filter(None, (f"{measure}{count}", split, network)))
        for network in networks
        for count in ("50k", "10k")
    )  # fmt: skip


def _top(k: int, feature: str) -> tuple[str, ...]:
    return tuple(f"top{k}_{protocol}_{feature}" for protocol in ("sweep100k", "sweep5k", "linear"))


TABLES = {
    "1": Table(
        PUBLISHED["1"],
        (
            Column("IS", _quality("is")),
            Column("FID", _quality("fid", "train")),
            Column("Cls.", ("top1_table1_avepool",)),
            Column("untrained Cls.", ("top1_table1_avepool",), untrained=True),
            Column("10 labels per class", ("top1_linear_avepool_10perclass",)),
        ),
        (PublishedRow("Hinge of the sum", "table1/hinge_of_sum"),),
    ),
    "2": Table(
        PUBLISHED["2"],
        (
            Column("AvePool top-1", _top(1, "avepool")),
            Column("AvePool top-5", _top(5, "avepool")),
            Column("BN+CReLU top-1", _top(1, "bn_crelu")),
            Column("BN+CReLU top-5", _top(5, "bn_crelu")),
            Column("untrained, BN+CReLU top-1", _top(1, "bn_crelu"), untrained=True),
        ),
        (
            PublishedRow("BigBiGAN, ResNet-50 at 128 px (Base)", "table1/base"),
            PublishedRow("Supervised, ResNet-50", "pretext/supervised"),
        ),
    ),
    "3": Table(
        PUBLISHED["3"],
        (
            Column("IS", _quality("is")),
            Column("FID vs. train", _quality("fid", "train")),
            Column("FID vs. val", _quality("fid", "test")),
        ),
    ),
    "bigan": Table(
        PUBLISHED["bigan"],
        (
            Column("1-NN", ("knn1_euclidean_avepool",)),
            Column("untrained", ("knn1_euclidean_avepool",), untrained=True),
            Column("1-NN on E(x)", ("knn1_euclidean_z_mean",)),
            Column("‖x − G(E(x))‖", ("reconstruction_error",)),
            Column("mismatched", ("reconstruction_error_mismatched",)),
        ),
        dataset="mnist",
    ),
}


@dataclass(frozen=True)
class Cell:
    """Hold a published number, and our values for it."""

    published: str  # "" if the table has none
    values: list[float] = field(default_factory=list)  # ours, one a seed
    exists: bool = True  # whether the networks of the row can have a value
    comparable: bool = True  # with the other rows of the column

    @property
    def ours(self) -> str:
        """Our values as text, "not run", or "–" if there can be none."""
        if not self.values:
            return NOT_RUN if self.exists else "–"
        shown = f"{median(self.values):.2f}"
        if len(self.values) > 1:
            shown += f" ({mean(self.values):.2f} ± {stdev(self.values):.2f})"
        return shown


@dataclass(frozen=True)
class FilledTable:
    """Hold a published table with our values."""

    title: str
    columns: list[str]
    rows: list[tuple[str, str | None, list[Cell]]]  # title, experiment, cells
    notes: list[str]
    budgets: list[Budget | None] | None = None  # of our run of each row, in a table that shows budgets

    @property
    def filled_cells(self) -> int:
        """The number of cells that have a value of ours."""
        return sum(bool(cell.values) for _, _, cells in self.rows for cell in cells)

    def as_dict(self) -> dict[str, Any]:
        """Return the table as JSON types."""
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
    """Fill a published table from result lines.

    Args:
        name: 1, 2, 3 or bigan.
        lines: result lines, oldest first.
        scale: the size of the experiments; 0 is as published.
        dataset: use only lines of this data set; by default the table's own, or the one that fills most rows.

    Raises:
        UserError: no such table.
    """
    if name not in TABLES:
        raise UserError(f"table {name}: unknown; expected one of {', '.join(TABLES)}")
    table = TABLES[name]
    dataset = dataset or table.dataset
    lines = [x for x in lines if dataset in (None, x["dataset"]) and not transferred(x)]
    unscaled = {
        row.experiment for row in table.published.rows if row.experiment and not EXPERIMENTS[row.experiment].scales
    }
    any_size = {"external", *unscaled}
    lines = [x for x in lines if x.get("scale", 0) == scale or {x["subject"], x["experiment"]} & any_size]
    optional = table.ours
    if name == "2":  # external encoders, measured by the same protocol
        external = dict.fromkeys(x["experiment"] for x in lines if x["subject"] == "external")
        optional += tuple(PublishedRow(experiment, experiment) for experiment in external)
    rows = (*table.published.rows, *optional)
    # A line counts for each row of its experiment; `length` makes rows of unequal published length comparable.
    counted = [
        x | {"row": row, "metric": x["metric"].replace(row.feature, "avepool"), "length": x["images_seen"] / row.length}
        for x in lines
        for row in rows
        if x["experiment"] == row.experiment
    ]
    notes: list[str] = []
    by_column, shown = [], list[list[Line]]()
    for column in table.columns:
        group = _fullest(column, [x for x in counted if x["subject"] in column.subjects])
        by_column.append(_by_row(group))
        shown.append(group)
        if group:
            notes.append(f"{column.title}: ours is {_protocol(group)}")
    avepool_columns = [
        values
        for column, values in zip(table.columns, by_column, strict=True)
        if any("avepool" in m for m in column.metrics)
    ]
    others = [row for row in rows if row.feature != "avepool" and any(row.title in c for c in avepool_columns)]
    notes += [f"{row.title}: measured on {row.feature} instead of avepool" for row in others]
    own_size = [row for row in rows if scale and row.experiment in unscaled and any(row.title in c for c in by_column)]
    notes += [f"{row.title}: not scaled down" for row in own_size]
    filled = []
    for row in rows:
        numbers = table.published.numbers(row)
        cells = [
            Cell(
                numbers.get(column.title, ""),
                values.get(row.title, []),
                _exists(row, column),
                column.title not in row.incomparable,
            )
            for column, values in zip(table.columns, by_column, strict=True)
        ]
        if row not in optional or any(cell.values for cell in cells):
            filled.append((row.title, row.experiment, cells))
    budgets = None
    if name == "2":
        trained = [x for column, group in zip(table.columns, shown, strict=True) if not column.untrained for x in group]
        kinds = [(g[0]["metric"] if g else "", c.subjects) for c, g in zip(table.columns, shown, strict=True)]
        filled, budgets = _with_variants(filled, trained, counted, kinds)
    for i, column in enumerate(table.columns):
        if (found := rank_correlation(pairs(filled, i))) is not None:
            notes.append(
                f"{column.title}: rank correlation of published and ours over {found.rows} rows {found.rho:.2f}, "
                f"p = {found.p:.2g}"
            )
    if any(len(cell.values) > 1 for _, _, cells in filled for cell in cells):
        notes.append("Ours: the median over seeds, in brackets mean ± standard deviation; one number is one seed")
    title = table.title + (f"; ours at scale {scale}" if scale else "")
    return FilledTable(title, [c.title for c in table.columns], filled, [*notes, *table.published.notes], budgets)


def fullest_scale(name: str, lines: Sequence[Line], dataset: str | None = None) -> int:
    """Return the size whose runs are worth showing: full size (0) if a row was trained at it, else the fullest scale.

    Raises:
        UserError: no such table.
    """
    trained = [x for x in lines if x["subject"] == "trained" and _has_scales(x["experiment"])]
    scales = sorted({x.get("scale", 0) for x in trained})
    filled = {scale: fill(name, trained, scale, dataset).filled_cells for scale in scales}
    return 0 if filled.get(0) or not any(filled.values()) else max(filled, key=filled.__getitem__)


def _has_scales(experiment: str) -> bool:
    return experiment in EXPERIMENTS and bool(EXPERIMENTS[experiment].scales)


def _exists(row: PublishedRow, column: Column) -> bool:
    """Return whether the networks of a row have what a column measures: No E has no features of E, D no E(x)."""
    metric = column.metrics[0]
    experiment = EXPERIMENTS.get(row.experiment or "")
    if row.experiment is None:
        return False
    if row.feature != "avepool":  # the row stands for this feature, in the place of AvePool
        return "avepool" in metric
    of_encoder = any(name in metric for name in ("avepool", "bn_crelu", "z_mean", "reconstruction"))
    return not of_encoder or experiment is None or experiment.config().has_encoder  # None: an external encoder


def pairs(rows: Iterable[tuple[str, str | None, list[Cell]]], i: int) -> list[tuple[float, float]]:
    """Return the published and our value of each row that has both and compares with the others, in column `i`."""
    cells = [cells[i] for _, _, cells in rows]
    return [
        (float(c.published.split()[0]), median(c.values)) for c in cells if c.published and c.values and c.comparable
    ]


def _protocol(group: Sequence[Line]) -> str:
    """Describe how the lines of a column were measured: metric, data set, length of training, changed settings."""
    longer = {x["row"].title: x["steps"] for x in group if x["row"].length > 1}
    usual = [x for x in group if x["row"].title not in longer] or group
    x = usual[0]
    epochs = _epochs(x)
    kept = {k: v for k, v in x["settings"].items() if x["subject"] != "untrained" or _shapes_networks(k)}
    changed = named_settings(kept)
    steps = {y["steps"] for y in usual if y["subject"] != "external"}
    length = f"{x['steps']:,} steps" if len(steps) < 2 else f"{x['images_seen']:,} images seen"
    length += f" ({epochs:g} epochs)" if epochs else ""
    if usual is not group:
        length += "".join(f", {title}: {count:,} steps" for title, count in longer.items())
    return (
        f"{x['metric']} on {x['dataset']} ({x['split']}), {length}"
        + (f", {x['protocol']['references']:,} references" if _has_references(x) else "")
        + (f", {changed}" if changed else "")
    )


def _with_variants(
    rows: list[tuple[str, str | None, list[Cell]]],
    shown: list[Line],
    lines: list[Line],
    kinds: list[tuple[str, tuple[str, ...]]],
) -> tuple[list[tuple[str, str | None, list[Cell]]], list[Budget | None]]:
    """Return Table 2's rows, each followed by its variants (`training_budget.variants`), and the budget of each row.

    A row has no budget if its columns are of different lengths, which the notes say. `kinds` are each column's metric
    and subjects.
    """
    shown, lines = ([x for x in group if x["subject"] != "external"] for group in (shown, lines))
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
                Cell("", _by_row([x for x in variant.lines if x["metric"] == m and x["subject"] in s]).get(title, []))
                for m, s in kinds
            ]
            out.append((f"{title}, {variant.difference}", experiment, cells))
            budgets.append(budget(variant.lines[-1]))
    return out, budgets


def _has_references(x: Line) -> bool:
    """Return whether a line is of a nearest-neighbour vote and says among how many references."""
    return x["metric"].startswith("knn") and "references" in x.get("protocol", {})


def _epochs(x: Line) -> float | None:
    """Return how often each training image was seen, or None if the line does not say how many there are.

    It says so for a nearest-neighbour vote, and for image quality against the training split; not if only some of the
    images were measured (`evaluate --max-images`).
    """
    protocol = {} if "_test_" in x["metric"] else x.get("protocol", {})
    references, images = protocol.get("references"), protocol.get("train_images")
    images = None if images == references else images or references
    return round(x["images_seen"] / images, 1) if images and x["images_seen"] else None


def _fullest(column: Column, lines: Sequence[Line]) -> list[Line]:
    """Return the largest group of lines for a column that are comparable: the one that fills most rows.

    Lines are comparable if they share one metric, data set, length, change of settings, limit of images, and feature
    extractor or number of references.
    """
    groups: dict[tuple[Any, ...], list[Line]] = {}
    for x in lines:
        if x["metric"] in column.metrics:
            chosen = chosen_settings(x)
            if x["subject"] == "untrained":  # settings of training have not changed it
                chosen = {name: value for name, value in chosen.items() if _shapes_networks(name)}
            settings = json.dumps(chosen, sort_keys=True)
            references = x["protocol"]["references"] if _has_references(x) else None
            protocol = x.get("protocol", {})
            same = (references, protocol.get("network"), protocol.get("train_images"))
            key = (x["metric"], x["dataset"], x["split"], x["length"], settings, *same)
            groups.setdefault(key, []).append(x)

    def rank(item: tuple[tuple[Any, ...], list[Line]]) -> tuple[int, int, float]:
        key, found = item
        return len({x["row"] for x in found}), -column.metrics.index(key[0]), key[3]

    if not groups:
        return []
    key, found = max(reversed(groups.items()), key=rank)  # of equals the newest
    # How many images an external encoder saw is unknown (0): it joins whatever is shown for its metric and data.
    others = (x for k, more in groups.items() if k[:3] == key[:3] and not k[3] and k != key for x in more)
    return found + [x for x in others if x["subject"] == "external"]


def _shapes_networks(name: str) -> bool:
    """Return whether a setting can change an untrained network or its images."""
    groups = ("data.", "latent.", "generator.", "discriminator.", "encoder.")
    return name.startswith(groups) and name not in ("encoder.lr_multiplier", "encoder.augment")


def _by_row(lines: Iterable[Line]) -> dict[str, list[float]]:
    """Return the newest value of each seed, by the title of the row."""
    newest: dict[str, dict[int, float]] = {}
    for x in lines:
        newest.setdefault(x["row"].title, {})[x["seed"]] = x["value"]
    return {title: list(seeds.values()) for title, seeds in newest.items()}
