"""Image quality of samples: FID, KID, Inception Score, precision and recall, and the networks they use."""
