"""Measure trained networks, and any frozen encoder, from metric names to tables. Nothing here changes a weight.

metric_names      what can be measured, by name     targets           what is measured: a run, or any frozen encoder
splits            training and test images          features          features of a whole image set
probes/           logistic regression, linear heads, nearest neighbours, accuracy of pretext tasks
image_quality/    FID, KID, Inception Score, precision and recall, and their feature extractors
runner            measures a target on a data set   early_stopping    measures the validation metric during training
context           what its parts share             feature_probes    all probes of one encoder's features
records           result lines                      published_tables  published tables, with our results
table_formats     the same as text, Markdown, HTML  rank_correlation  whether rows have the published order
label_curve       accuracy over number of labels    metric_glossary   what each metric means
training_budget   images and updates, for Table 2   results_text      result lines as text
verdict           whether training was worth it, in words
"""
