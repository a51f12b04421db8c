"""Names of what signatures speak of.

Neither Keras nor TensorFlow tells a type checker what a tensor is: to it `Tensor` is anything. The
name is for who reads.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

# Of any backend, or a NumPy array; where shapes allow it, a number.
Tensor: TypeAlias = Any
# Sides of a tensor as Keras passes them to `build`; `None` where they are not known yet.
Shape: TypeAlias = tuple[Any, ...]
# Tensors by the name of their level, as a network takes and returns them.
Levels: TypeAlias = dict[str, Tensor]
# (x by level, t) -> x0 by level.
Denoiser: TypeAlias = Callable[[Levels, Tensor], Levels]
