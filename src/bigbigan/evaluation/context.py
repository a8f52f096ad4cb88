"""Share what the parts of an evaluation need: the model, its data, and the result lines so far."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from bigbigan.data import ImageSet, Source
from bigbigan.evaluation.metric_names import parse_metrics
from bigbigan.evaluation.records import Measurement, ResultLine, Subject
from bigbigan.evaluation.splits import Images, Split, lacks_classes, load_images
from bigbigan.evaluation.targets import Target
from bigbigan.progress import Bar

__all__ = ["NAMES", "Evaluation", "classes_of"]

# The parts that evaluation_seconds reports, by kind of metric.
PARTS = {
    "linear": "logistic regression",
    "few_linear": "few labels",
    "few_knn": "few labels",
    "heads": "linear heads",
    "knn": "nearest neighbours",
    "quality": "image quality",
    "reconstruction": "image quality",
    "task": "tasks",
}
NAMES: dict[Subject, str] = {
    "pixels": "pixels",
    "untrained": "untrained encoder",
    "trained": "trained encoder",
    "external": "this encoder",
}


@dataclass
class Evaluation:
    """Hold a model under evaluation, its data, and the result lines so far."""

    target: Target
    source: Source
    study: str
    command: str
    progress: bool
    out: Path | None = None  # a folder to write to instead of the run's
    drawn_from: ImageSet | None = None  # all training images, if the source has only some of them
    protocol: dict[str, int] = field(default_factory=dict)  # of all measurements
    lines: list[ResultLine] = field(default_factory=list)
    bar: Bar = field(default_factory=lambda: Bar(disable=True))
    spent: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))  # seconds, by part

    @cached_property
    def images(self) -> Images:
        """The images in memory, read when they are first needed: image quality does not need them."""
        start = time.perf_counter()
        found = load_images(self.source, self.target.view, drawn_from=self.drawn_from, progress=self.progress)
        self.spent["reading"] += time.perf_counter() - start
        return found

    @property
    def train(self) -> Split:
        """The training images."""
        return self.images.train

    @property
    def test(self) -> Split:
        """The test images."""
        return self.images.test

    @property
    def labelled(self) -> bool:
        """Whether there are labels of two classes or more to train on, and labels to test on."""
        return self.lacking is None

    @cached_property
    def lacking(self) -> str | None:
        """Why the labels do not suffice, or None."""
        return lacks_classes(self.source, self.train, self.test)

    def note(
        self, start: float, subject: Subject, split: str, measured: dict[str, Measurement], n: int | None = None
    ) -> None:
        """Add result lines for measurements that took since `start`; "pixels" stands for whitened ones too."""
        if not measured:
            return
        metrics = parse_metrics(measured)
        self.spent[PARTS[metrics[0].kind]] += time.perf_counter() - start
        by_subject = defaultdict[Subject, dict[str, Measurement]](dict)
        for m in metrics:
            by_subject["pca_pixels" if m.feature == "pca_pixels" else subject][m.name] = measured[m.name]
        for of_subject, part in by_subject.items():
            self.add(start, of_subject, split, part, n)

    def add(
        self, start: float, subject: Subject, split: str, measured: dict[str, Measurement], n: int | None = None
    ) -> None:
        """Add result lines of one subject."""
        self.lines += self.target.result_lines(
            {name: m._replace(protocol=(m.protocol or {}) | self.protocol) for name, m in measured.items()},
            source=self.source,
            split=split,
            n=len(self.test) if n is None else n,
            subject=subject,
            start=start,
            study=self.study,
            command=self.command,
        )


def classes_of(split: Split) -> int:
    """Return how many classes the labels have."""
    return 0 if split.labels is None else len(np.unique(split.labels))
