"""The dtype policies that a network may have."""

from typing import Any

import keras

from keras_mdm import checks

# (compute dtype, dtype of the weights) by name of the policy.
POLICIES = {
    "float32": ("float32", "float32"),
    "mixed_bfloat16": ("bfloat16", "float32"),
    "mixed_float16": ("float16", "float32"),
    "bfloat16": ("bfloat16", "bfloat16"),
}


def network_policy(dtype: Any = None) -> keras.DTypePolicy:
    """Return the policy of a network.

    Float16 has too little range for weights, and diffusion does not need float64. `"bfloat16"`
    stores the weights in half the memory (averages stay float32) and is for sampling: training
    steps would be lost in its 8 bits.

    Args:
        dtype: a policy or its name; the global policy unless given.

    Raises:
        ValueError: if it is none of `POLICIES`.

    Example:

    >>> network_policy("mixed_bfloat16").compute_dtype
    'bfloat16'
    """
    given = keras.config.dtype_policy() if dtype is None else dtype
    try:
        policy = keras.dtype_policies.get(given)
        known = (policy.compute_dtype, policy.variable_dtype) in POLICIES.values()
        # Excludes policies that quantize and maps of policies by layer.
        known = known and type(policy) is keras.DTypePolicy
    except (ValueError, TypeError, AttributeError):
        known = False
    if not known:
        raise checks.error(
            "the dtype policy of a network must be one of " + ", ".join(map(repr, POLICIES)),
            fix='pass dtype="float32", or "mixed_bfloat16" for speed; or set one of them with '
            "keras.config.set_dtype_policy",
            dtype=getattr(given, "name", given),
        )
    return policy


def check_trainable(policy: keras.DTypePolicy) -> None:
    """Raise unless the weights of a network can be trained.

    Args:
        policy: the network's policy.
    """
    if policy.variable_dtype != "float32":
        raise checks.error(
            "weights must be float32 to be trained: steps smaller than 1/256 of a weight are lost "
            f"in {policy.variable_dtype}",
            fix='build the network with dtype="mixed_bfloat16", which also computes in bfloat16',
            dtype=policy.name,
        )
