"""Probes of frozen features: logistic regression, linear heads, nearest neighbours, pretext accuracy."""
