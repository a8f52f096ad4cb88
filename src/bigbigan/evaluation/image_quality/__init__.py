"""Measure the image quality of samples: FID, KID, Inception Score, precision and recall."""
