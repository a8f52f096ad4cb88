"""Calibrate the confidence of a classifier, and measure how well it is calibrated."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

__all__ = ["calibration_error", "fit_temperature"]

BINS = 15


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the T in [0.05, 20] for which softmax(logits / T) gives unseen labels the highest likelihood."""

    def loss(log_t: float) -> float:
        return -float(log_softmax(logits / np.exp(log_t), axis=1)[np.arange(len(labels)), labels].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded").x))


def calibration_error(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the expected calibration error in [0, 1]: the mean gap of confidence and accuracy over 15 equal bins."""
    probabilities = np.exp(log_softmax(logits, axis=1))
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    bin_of = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = [
        abs(confidence[bin_of == b].mean() - correct[bin_of == b].mean()) * (bin_of == b).sum()
        for b in np.unique(bin_of)
    ]
    return float(sum(gaps) / len(labels))
