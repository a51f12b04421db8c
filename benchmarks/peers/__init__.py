"""Networks of other libraries with the same arithmetic, beside which `step.py` times ours."""
