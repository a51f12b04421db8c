"""The configuration of one of our image networks in the authors' field names."""

from typing import Any


def official(spec: Any) -> dict[str, Any]:
    """Return the fields that `torch_network.build` reads.

    Args:
        spec: `NestedUNetSpec` of a network like the released ones.

    Raises:
        ValueError: if the peer cannot represent it.
    """
    innermost = spec.levels[0]
    unlike = {
        "text": spec.text_width is None,
        "text blocks": spec.text_blocks > 0,
        "classes": spec.num_classes is not None,
        "masked text": innermost.mask_text,
        "clips": any(level.frames for level in spec.levels),
    }
    if any(unlike.values()):
        named = [name for name, found in unlike.items() if found]
        raise ValueError(f"the peer has only networks like the released ones, without {named}")
    found: dict[str, Any] = {}
    for index, level in enumerate(spec.levels):
        found = {
            "resolution_channels": list(level.channels),
            "num_resnets_per_resolution": list(level.blocks),
            "attention_levels": [i for i, layers in enumerate(level.attention) if layers],
            "num_attention_layers": list(level.attention),
            "temporal_dim": spec.time_width,
            "conditioning_feature_dim": spec.text_width,
            "conditioning_feature_proj_dim": (spec.text_projection or -1) if not index else -1,
            "micro_conditioning": ",".join(f"{k}:{v}" for k, v in level.micro_conditions.items()),
            "skip_mid_blocks": not level.use_mid_block,
            "skip_cond_emb": index > 0,
            "skip_normalization": not level.normalize_input,
            "resnet_config": {
                "num_groups_norm": level.groups,
                "use_attention_ffn": bool(level.attention_ffn),
            },
            "inner_config": found or None,
        }
    return found
