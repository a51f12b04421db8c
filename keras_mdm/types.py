"""Names for the types in signatures.

Neither Keras nor TensorFlow tells a type checker what a tensor is, so it sees `Tensor` as `Any`.
The name is for readers.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

# A tensor of any backend, or a NumPy array; where shapes allow it, a number.
Tensor: TypeAlias = Any
# A shape as Keras passes it to `build`; `None` for unknown sizes.
Shape: TypeAlias = tuple[Any, ...]
# Tensors by the name of their level, as a network takes and returns them.
Levels: TypeAlias = dict[str, Tensor]
# (x by level, t) -> x0 by level.
Denoiser: TypeAlias = Callable[[Levels, Tensor], Levels]
