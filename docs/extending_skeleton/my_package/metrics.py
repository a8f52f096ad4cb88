"""An evaluation metric: a number computed from features."""

import numpy as np


def effective_dimension(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray
) -> float:
    """Return (Σλ)² / Σλ² of the eigenvalues λ of the covariance of test features [N, d]: from 1 to d."""
    spectrum = np.linalg.eigvalsh(np.cov(test, rowvar=False))
    return float(spectrum.sum() ** 2 / (spectrum**2).sum())
