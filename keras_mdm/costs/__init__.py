"""What training costs, compared with what a machine has."""

from keras_mdm.costs.estimate import step_flop
from keras_mdm.costs.fitting import device_memory, smallest_micro_batches

__all__ = ["device_memory", "smallest_micro_batches", "step_flop"]
