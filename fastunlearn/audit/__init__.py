"""Measure how far a model has forgotten, how near it is to one retrained, and report it."""
