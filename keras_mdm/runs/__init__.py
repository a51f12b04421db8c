"""Runs: what a run directory holds, how a run continues, and how its models are used."""
