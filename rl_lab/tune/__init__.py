"""Search for hyperparameters with Optuna: what is searched, the study, and the runs of its trials.

A study's runs tell which settings are good on its seeds. They are no results: the folder is marked, so that reports
leave it out (`rl_lab.records.tune_of`). Only `study`, `report` and `search` need Optuna, which is an extra.
"""
