"""Runs: what a run directory holds, how it is continued, and how what it made is used."""
