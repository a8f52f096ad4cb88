"""Probe frozen features: logistic regression, linear heads, nearest neighbours, accuracy of pretext tasks."""
