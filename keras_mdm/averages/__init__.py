"""Averages of the weights, and the names for sets of weights."""
