"""What the experiments share: trainings of equal compute, one loop, one ledger, one figure."""
