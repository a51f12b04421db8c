"""What clients send: every mistake has one sentence and the right status."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from keras_mdm.serving import wishes
from keras_mdm.serving.limits import Limits, Refused

LIMITS = Limits(prompt=50, pixels=4096)


def png(picture):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()


def read(wish, **options):
    body = wish if isinstance(wish, bytes) else json.dumps(wish).encode()
    return wishes.read(body, wishes.FIELDS, LIMITS, **options)


def test_what_is_sent_is_what_is_read():
    picture = np.arange(48, dtype="uint8").reshape(4, 4, 3)
    mask = np.array([[0, 255], [100, 200]], "uint8")
    wish = read(
        {
            "prompt": "a réd apple",
            "seed": 2**53,
            "steps": None,
            "guidance_scale": {"8": 2},
            "init_image": png(picture),
            "mask": png(mask),
        }
    )
    assert (wish.prompt, wish.seed, wish.steps) == ("a réd apple", 2**53, None)
    assert wish.guidance_scale == {"8": 2}
    np.testing.assert_array_equal(wish.init_image, picture)
    np.testing.assert_array_equal(wish.mask, [[0, 1], [0, 1]])
    assert read({"init_image": png(picture)}, channels=1).init_image.shape == (4, 4, 1)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, "must be JSON"),
        (b'{"prompt": "\xff"}', 400, "UTF-8.+position=12"),
        (b"[" * 100_000, 400, "must be JSON"),
        ([1], 422, "JSON object"),
        ({"promt": "a"}, 422, "unknown_keys=.'promt'."),
        ({"prompt": 5}, 422, "`prompt` must be a text"),
        ({"steps": "5"}, 422, "`steps` must be a whole number"),
        ({"steps": 1e9}, 422, "`steps` must be a whole number"),
        ({"steps": True}, 422, "`steps` must be a whole number"),
        ({"guidance_scale": float("nan")}, 422, "must be a finite number or an object"),
        ({"guidance_scale": 10**400}, 422, "must be a finite number or an object"),
        ({"seed": -1}, 422, "`seed` must be"),
        ({"seed": 2**63}, 422, "`seed` must be"),
        ({"prompt": "a" * 51}, 422, "at most 50 characters. Received: characters=51"),
        ({"prompt": "\ud800"}, 422, "whole characters"),
        ({"mask": "?"}, 422, "`mask` must be a picture file in base64"),
        ({"init_image": "aGk="}, 422, "`init_image` must be a picture file"),
        ({"init_image": png(np.zeros((65, 65), "uint8"))}, 422, "65 x 65 pixels, more than 4096"),
    ],
)
def test_mistakes_have_one_sentence_and_a_status(body, status, words):
    with pytest.raises(Refused, match=words) as found:
        read(body)
    assert found.value.status == status
    assert len(str(found.value)) < 600  # what was sent is not repeated whole
    assert "To fix it: " in str(found.value)


def test_the_schema_names_what_the_model_takes():
    found = wishes.schema(("steps", "prompt"), {"steps": 7}, LIMITS)
    assert list(found["properties"]) == ["prompt", "steps"]
    assert found["properties"]["steps"]["default"] == 7
    assert found["properties"]["prompt"]["maxLength"] == 50
    assert set(wishes.FIELDS) == set(wishes._SCHEMAS)
