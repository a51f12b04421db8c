"""How drawings move, measured on drawings that are known to move so."""

import numpy as np
import pytest

from keras_mdm.evaluation import motion

SIZE, FRAMES = 48, 6


def clip(*, right=0.0, down=0.0, scale=1.0, angle=0.0):
    """A lopsided figure, moved evenly to these changes of its last frame."""
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    frames = []
    for share in np.linspace(0.0, 1.0, FRAMES):
        grow, turn = scale**share, angle * share
        u = (x - SIZE * (0.5 + right * share - right / 2)) / (SIZE * grow)
        v = (y - SIZE * (0.5 + down * share - down / 2)) / (SIZE * grow)
        u, v = u * np.cos(turn) + v * np.sin(turn), v * np.cos(turn) - u * np.sin(turn)
        # An L, softly edged so that it turns by parts of a pixel.
        bar = np.minimum(0.06 - np.abs(u + 0.08), 0.15 - np.abs(v))
        foot = np.minimum(0.14 - np.abs(u), 0.05 - np.abs(v - 0.1))
        ink = np.clip(np.maximum(bar, foot) * SIZE * grow + 0.5, 0.0, 1.0)
        frames.append(255 - (ink[..., None] * (200, 120, 220)))
    return np.round(frames).astype(np.uint8)


@pytest.mark.parametrize(
    "change",
    [
        {"right": 0.3},
        {"right": -0.2, "down": 0.3},
        {"scale": 1.8},
        {"scale": 0.6},
        {"angle": 2.0},
        {"angle": -1.2},
        {"right": 0.2, "scale": 1.4, "angle": 0.9},
        {},
    ],
    ids=str,
)
def test_tracks_are_what_was_drawn(change):
    found = motion.track(clip(**change)[None])[0]
    share = np.linspace(0.0, 1.0, FRAMES)
    # The middle of the L is not that of its ink: turning and growing move the ink a little.
    np.testing.assert_allclose(found[:, 3], change.get("angle", 0.0) * share, atol=0.08)
    np.testing.assert_allclose(found[:, 2], np.log(change.get("scale", 1.0)) * share, atol=0.03)
    if not {"angle", "scale"} & set(change):
        np.testing.assert_allclose(found[:, 0], change.get("right", 0.0) * share, atol=0.02)
        np.testing.assert_allclose(found[:, 1], change.get("down", 0.0) * share, atol=0.02)


def test_unevenness_of_the_paper_does_not_count():
    still = clip(right=0.3)
    rng = np.random.default_rng(0)
    noisy = np.clip(still + rng.normal(0, 5, still.shape), 0, 255).astype(np.uint8)
    np.testing.assert_allclose(motion.track(noisy[None]), motion.track(still[None]), atol=0.05)
    white = np.full((1, FRAMES, SIZE, SIZE, 3), 255, np.uint8)
    assert not motion.track(white).any()


def test_recognised_motions_and_amounts():
    ways = {"right": (0.4, 0), "left": (-0.4, 0), "turning": (0, 2.0)}
    share = np.linspace(0.0, 1.0, FRAMES)[:, None]
    exact = {name: share * (right, 0, 0, angle) for name, (right, angle) in ways.items()}
    half = motion.track(np.stack([clip(right=0.2), clip(angle=1.6), clip(right=0.4)]))
    found = motion.recognise(half, exact, ("right", "turning", "left"))
    assert found.names == ("right", "turning", "right")
    np.testing.assert_allclose(found.amounts, [0.5, 0.8, -1.0], atol=0.08)
    rows = motion.summary(found, ("right", "turning", "left"))
    assert rows["all"]["recognised"] == pytest.approx(2 / 3) and rows["left"]["recognised"] == 0.0
    text = motion.table({"here": rows}, tuple(ways))
    assert "0.67" in text and "turning" in text


@pytest.mark.parametrize(
    "call",
    [
        lambda: motion.track(np.zeros((2, 3, 8, 8), "uint8")),
        lambda: motion.track(np.zeros((2, 3, 8, 8, 3))),
        lambda: motion.recognise(np.zeros((1, 3, 4)), {"a": np.zeros((3, 4))}, ("b",)),
        lambda: motion.recognise(np.zeros((1, 3, 4)), {"a": np.zeros((2, 4))}, ("a",)),
        lambda: motion.recognise(np.zeros((2, 3, 4)), {"a": np.zeros((3, 4))}, ("a",)),
    ],
)
def test_bad_input(call):
    with pytest.raises(ValueError, match="Received: .*To fix it: "):
        call()
