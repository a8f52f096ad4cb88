"""Measure trained networks and any frozen encoder, from names of metrics to tables. Nothing here changes a weight.

metric_names      what can be measured, by name     targets           what is measured: a run, or any frozen encoder
splits            what is learned, chosen, scored   features          what an encoder says of a whole image set
probes/           logistic regression, linear heads, nearest neighbours, accuracy of pretext tasks
image_quality/    FID, KID, Inception Score, precision and recall, and the networks they compare images by
runner            a target on a data set, to result lines             early_stopping    the same while a run trains
records           result lines                      published_tables  published tables, with ours next to them
budgets           images seen and updates of E, for Table 2
"""
