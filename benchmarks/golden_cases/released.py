"""Configurations of the three released networks."""

from typing import Any


def block(channels: list[int], blocks: list[int], scale: int, **fields: Any) -> dict:
    """One level of a released configuration, as in its YAML file."""
    return {
        "resolution_channels": channels,
        "num_resnets_per_resolution": blocks,
        "temporal_dim": 1024,
        "micro_conditioning": f"scale:{scale}",
        **fields,
    }


def released_config(size: int) -> dict:
    """Return the network's section of a released file, without fields that have no effect.

    Args:
        size: 64, 256 or 1024.
    """
    config = block(
        [256, 512, 768],
        [2, 2, 2],
        64,
        attention_levels=[1, 2],
        num_attention_layers=[0, 1, 5],
        conditioning_feature_dim=2048,
        conditioning_feature_proj_dim=2048,
        num_lm_head_layers=0,
        masked_cross_attention=0,
        resnet_config={"use_attention_ffn": True, "num_groups_norm": 32, "dropout": 0.0},
    )
    outer = {
        "attention_levels": [],
        "num_attention_layers": [0, 0, 0],
        "conditioning_feature_dim": 2048,
        "skip_mid_blocks": True,
        "skip_cond_emb": True,
        "initialize_inner_with_pretrained": "None",
    }
    if size >= 256:
        outer_256 = block([64, 128, 256], [2, 2, 1], 256, **outer, skip_normalization=size == 256)
        config = {**outer_256, "inner_config": config}
    if size == 1024:
        outer_1024 = block([32, 32, 64], [2, 2, 1], 1024, **outer, skip_normalization=True)
        config = {**outer_1024, "inner_config": config}
    return config
