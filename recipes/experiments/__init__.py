"""The paper's experiments, each one command."""
