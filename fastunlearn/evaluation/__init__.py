"""Comparing methods on data sets against retraining: data, models, tuning within a budget, requests in a row,
sweeps."""
