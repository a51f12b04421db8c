"""Averages of the weights, and which weights a name stands for."""
