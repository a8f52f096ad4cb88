"""Write the section of classes and mistakes: what a classifier on E's features confuses, class by class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import softmax
from sklearn.metrics import confusion_matrix

from bigbigan.apps.report.contents import Run
from bigbigan.apps.report.markup import Html, command, join, missing, paragraph, table, tag, tile
from bigbigan.evaluation.probes.logistic import class_scores, fit_linear

LABELLED = 2_000  # maximum number of training images
MATRIX = 20  # maximum number of classes of which all are shown
MISTAKES = 12


@dataclass
class Predictions:
    """Hold the predictions for unseen images: true and predicted classes, int64 [N], and confidences [N] in (0, 1]."""

    truth: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    places: np.ndarray  # of the images among the unseen ones
    labelled: int  # images the classifier was trained on


def classes(run: Run) -> Html:
    """Return the section."""
    if run.no_images is not None:
        return run.no_images
    found = predictions(run)
    if found is None:
        labels = command("report", run.path, "--labels", "FILE.csv")
        return missing("Not available: the images have no labels of two or more classes. With labels: ", labels)
    names = class_names(run)
    confusion = confusion_matrix(found.truth, found.predicted, labels=range(len(names)))
    right = found.truth == found.predicted
    text = (
        f"A linear classifier on BN+CReLU features of {found.labelled:,} labelled training images, tried on "
        f"{len(right):,} others: {100 * right.mean():.1f} % are right. This is an overview of what is confused; "
        "“What the encoder learned” has the accuracies to quote."
    )
    return join(
        paragraph(text), _most_confused(confusion, names), _matrix(confusion, names), _mistakes(run, found, names)
    )


def predictions(run: Run) -> Predictions | None:
    """Train the classifier and predict the unseen images; None unless there are labels of two classes or more."""
    images = run.images
    known, truth = images.known.labels, images.unseen.labels
    if known is None or truth is None:
        return None
    trained = np.flatnonzero(known >= 0)[:LABELLED]
    places = np.flatnonzero(truth >= 0)
    if len(np.unique(known[trained])) < 2 or not len(places):
        return None
    unseen, features = images.features
    groups = None if images.known.groups is None else images.known.groups[trained]
    classifier = fit_linear(features[trained], known[trained], 0, groups)
    p = softmax(class_scores(classifier, unseen[places]), axis=1)
    return Predictions(truth[places], p.argmax(1), p.max(1), places, len(trained))


def class_names(run: Run) -> list[str]:
    """Return the names of the classes of the images, of which one split at least has labels."""
    splits = (run.images.known, run.images.unseen)
    return next(list(images.classes) for images in splits if images.classes is not None)


def _most_confused(confusion: np.ndarray, names: list[str], most: int = 3) -> Html:
    """Name the pairs of classes that are confused most often."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [divmod(int(i), len(names)) for i in order]
    texts = [f"{names[a]} taken for {names[b]} ({wrong[a, b]:,})" for a, b in pairs if wrong[a, b]]
    return paragraph(f"Confused most often: {', '.join(texts)}.") if texts else paragraph("No image is misclassified.")


def _matrix(confusion: np.ndarray, names: list[str]) -> Html:
    """Return a row for each class: images by predicted class, and how many are found and correct.

    With many classes, the predicted classes are left out, and the classes that are found worst are shown.
    """
    totals, predicted, hits = confusion.sum(1), confusion.sum(0), confusion.diagonal()
    there = np.flatnonzero(totals)
    found = 100 * hits / np.maximum(totals, 1)
    every = len(names) <= MATRIX
    shown = list(range(len(names))) if every else sorted(there, key=lambda c: (found[c], c))[:MATRIX]
    rows: list[list[object]] = []
    for c in shown:
        cells: list[object] = [names[c]]
        if every:
            cells += [_cell(n, totals[c], c == k) for k, n in enumerate(confusion[c])]
        cells += [f"{totals[c]:,}", f"{found[c]:.0f} %" if totals[c] else "–"]
        cells.append(f"{100 * hits[c] / predicted[c]:.0f} %" if predicted[c] else "–")
        rows.append(cells)
    head = ["true class", *(names if every else []), "images", "found", "correct"]
    how = "Rows are true classes, columns predicted ones. " if every else f"The {MATRIX} classes found worst. "
    how += "Found: share of the images of a class that are predicted as it (recall). Correct: share of the images "
    how += "predicted as a class that are of it (precision)."
    return join(table(head, rows, "numbers confusion"), paragraph(how, classes="note"))


def _cell(count: int, total: int, diagonal: bool) -> Html:
    share = count / max(1, total)
    colour = "--good" if diagonal else "--bad"
    style = f"background:color-mix(in srgb,var({colour}) {round(100 * share**0.5 * 0.7)}%,transparent)" if count else ""
    return tag("div", f"{count:,}" if count else "·", style=style)


def _mistakes(run: Run, found: Predictions, names: list[str]) -> Html:
    """Return the mistakes that the classifier is most sure of, as pictures."""
    wrong = np.flatnonzero(found.truth != found.predicted)
    worst = wrong[np.argsort(-found.confidence[wrong], kind="stable")][:MISTAKES]
    if not len(worst):
        return Html()
    tiles = []
    for i in worst:
        truth, predicted = names[found.truth[i]], names[found.predicted[i]]
        caption = f"{truth} → {predicted}, {100 * found.confidence[i]:.0f} %"
        tiles.append(tile(run.images.x[found.places[i]], f"{truth}, taken for {predicted}", caption=caption))
    how = "The mistakes it is most sure of: true class → predicted class, confidence. Look for wrong labels too."
    return join(paragraph(how), tag("div", *tiles, classes="tiles"))
