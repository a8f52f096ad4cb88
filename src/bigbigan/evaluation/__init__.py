"""Measuring, from names to tables; nothing here changes a weight of what is measured.

metrics    the names of what can be measured     subjects   what is measured: a run, or any frozen encoder
splits     what is learned, chosen, scored on    features   what an encoder says of a whole image set
probe      logistic regression, few labels       linear     the paper's linear classifiers
knn        nearest neighbours                    networks   what images are compared by
quality    arithmetic of FID, KID, IS, P&R       samples    image quality of a run's samples
inception  the network of published FIDs         evaluate   all of it: a subject on a data set, to result lines
results    result lines                          tables     published tables beside ours
tasks      pretext tasks, on images not seen     budgets    images seen and updates of E, of Table 2's runs
logistic   the optimum of logistic regression
"""
