"""Counts against the paper's networks, and against arithmetic done by hand on a tiny one."""

import pytest

from keras_mdm.costs.describe import count_flop, count_step_flop, describe
from keras_mdm.models import LevelSpec, NestedUNet, build_nested_unet, cut

TINY = LevelSpec(8, channels=(32, 64), blocks=(1, 1), attention=(0, 1))
PLAIN = LevelSpec(8, channels=(32,), blocks=(1,), attention=(0,), use_mid_block=False)


@pytest.fixture(scope="module")
def tiny() -> NestedUNet:
    return build_nested_unet([TINY, 16], text_width=16, text_blocks=1)


def test_released_networks():
    found = describe("released_256")
    inner, outer = found["levels"]
    assert found["name"] == "released_256"
    assert [inner["name"], outer["name"]] == ["64", "256"]
    # Its inner part is the released 64 network.
    assert inner["parameters"] == 461_359_107
    assert inner["parameters"] + outer["parameters"] == found["parameters"] == 476_613_958
    assert inner["gflop"] == pytest.approx(364, rel=0.01)
    assert found["gflop"] == pytest.approx(589, rel=0.01)
    assert inner["gflop"] + outer["gflop"] == found["gflop"]


# Multiply-adds, by hand. Pixels are those of the output.


def conv(pixels, inputs, outputs):
    return pixels * 9 * inputs * outputs


def res_block(pixels, inputs, outputs, time_width=128):
    skip = pixels * inputs * outputs if inputs != outputs else 0
    modulation = time_width * 2 * outputs
    return conv(pixels, inputs, outputs) + modulation + conv(pixels, outputs, outputs) + skip


def attention(pixels, channels, tokens, text_width):
    """Projections (qkv, output), feed-forward, self-attention, and cross-attention."""
    itself = pixels * 4 * channels**2 + pixels * 8 * channels**2 + 2 * pixels**2 * channels
    return itself + tokens * text_width * 2 * channels + 2 * pixels * tokens * channels


def tiny_inner(tokens):
    width = 128  # 4 * 32, of the time embedding and of the projected text
    text = tokens * 16 * width + tokens * 12 * width**2 + 2 * tokens**2 * width + width**2
    time = 32 * width + width**2
    down = conv(64, 3, 32) + res_block(64, 32, 32) + conv(16, 32, 32) + res_block(16, 32, 64)
    middle = 2 * res_block(16, 64, 64)
    low = res_block(16, 64 + 64, 64) + res_block(16, 64 + 32, 64)
    high = conv(64, 64, 64) + res_block(64, 64 + 32, 32) + res_block(64, 32 + 32, 32)
    attentions = 4 * attention(16, 64, tokens, width)  # one down, one in the middle, two up
    return text + time + down + middle + low + high + attentions + conv(64, 32, 3)


def tiny_outer():
    width = 128
    time = 32 * width + width**2
    down = conv(256, 3, 32) + 2 * res_block(256, 32, 32) + conv(64, 32, 32)
    adapters = 2 * conv(64, 32, 32)
    low = res_block(64, 32, 32) + 2 * res_block(64, 64, 32)
    up = conv(256, 32, 32) + 3 * res_block(256, 64, 32) + conv(256, 32, 3)
    return time + down + adapters + low + up


@pytest.mark.parametrize("tokens", [3, 7])
def test_arithmetic_by_hand(tiny, tokens):
    found = count_flop(tiny, tokens)
    outer = sum(found.pop(f"level_16_{part}") for part in ("embedding", "down", "up"))
    assert outer == 2 * tiny_outer()
    assert sum(found.values()) == 2 * tiny_inner(tokens)


@pytest.mark.slow
def test_a_clip_level_costs_its_frames():
    """A spatial level over clips is the same level over images, once per frame."""
    image, clip = (
        count_flop(build_nested_unet(levels)) for levels in ([PLAIN, 16], [PLAIN, (2, 8), (2, 16)])
    )
    assert clip["level_2x16_down"] == 2 * image["level_16_down"]
    assert clip["level_2x16_up"] == 2 * image["level_16_up"]
    assert clip["level_2x16_embedding"] == image["level_16_embedding"]


def test_a_step_is_worth_three_passes_of_every_sample_at_its_levels(tiny):
    found = count_flop(tiny, 3)
    outer = sum(found.pop(f"level_16_{part}") for part in ("embedding", "down", "up"))
    inner = sum(found.values())
    assert count_step_flop(tiny, {"8": 2, "16": 5}, 3) == 3 * (7 * inner + 5 * outer)


def test_levels_specs_and_networks_agree():
    unet = build_nested_unet([PLAIN, 16], num_classes=10)
    found = describe(unet)
    assert found["name"] == "8 16"
    assert found["parameters"] == unet.count_params()
    assert describe(unet.spec) == found
    assert describe([PLAIN, 16], num_classes=10) == found
    assert describe(cut(unet, "8"))["levels"] == found["levels"][:1]


def test_precision_changes_no_count(tiny):
    low = build_nested_unet([TINY, 16], text_width=16, text_blocks=1, dtype="mixed_bfloat16")
    assert count_flop(low) == count_flop(tiny)


def test_options_belong_to_unbuilt_networks(tiny):
    with pytest.raises(ValueError, match=r"when it is built\. Received: text_width=16"):
        describe(tiny, text_width=16)
