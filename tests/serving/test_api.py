"""The HTTP side: answers and their statuses, who may ask, what hangs up."""

import asyncio
import base64
import io
import json
import time

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
httpx = pytest.importorskip("httpx")

from keras_mdm.serving.app import create_app  # noqa: E402
from keras_mdm.serving.guard import Guard  # noqa: E402
from keras_mdm.serving.limits import Limits  # noqa: E402
from keras_mdm.serving.metrics import Metrics  # noqa: E402
from keras_mdm.serving.queue import SamplingQueue  # noqa: E402
from serving.fakes import PATIENCE, FakePainter  # noqa: E402


class Served:
    """An application over a `FakePainter`, and requests to it."""

    def __init__(self, painter=None, guard=None, **limits):
        self.painter = painter or FakePainter()
        limits = Limits(**{"grace": 0.0, **limits})
        metrics = Metrics(limits.batch)
        self.queue = SamplingQueue(self.painter, limits, metrics.observe)
        app = create_app(self.queue, metrics, card="A card.")
        guard = {"body": 10_000, "answered": metrics.answered, **(guard or {})}
        self.app = Guard(app, **guard)

    async def __call__(self, method, path, **options):
        transport = httpx.ASGITransport(app=self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, timeout=PATIENCE, **options)

    def __enter__(self):
        self.queue.start()
        return lambda *words, **options: asyncio.run(self(*words, **options))

    def __exit__(self, *problem):
        self.queue.close()
        if self.painter.go is not None:
            self.painter.go.release(10_000)
        assert self.queue.join(PATIENCE)


def picture_of(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def test_a_picture_as_json_and_as_png():
    with Served() as call:
        found = call("POST", "/api/generate", json={"seed": 7, "prompt": "é"}).json()
        assert list(found["images"]) == ["4", "8"]
        assert np.all(picture_of(base64.b64decode(found["images"]["8"])) == 7)
        assert found["parameters"] == {"prompt": "é", "seed": 7, "steps": 4}
        answer = call("POST", "/api/generate", json={"seed": 9}, headers={"Accept": "image/png"})
        assert answer.headers["content-type"] == "image/png" and answer.headers["x-seed"] == "9"
        picture = Image.open(io.BytesIO(answer.content))
        assert np.asarray(picture).shape == (8, 8, 3)
        assert json.loads(picture.text["keras-mdm"])["seed"] == 9  # enough to draw it again


def test_a_job_from_its_place_over_a_preview_to_its_picture():
    served = Served(FakePainter(held=True))
    with served as call:
        jobs = [call("POST", "/api/jobs", json={"seed": s, "steps": 2 + s}) for s in range(2)]
        assert [job.status_code for job in jobs] == [202, 202]
        first, second = (job.headers["location"] for job in jobs)
        assert served.painter.drawing.wait(PATIENCE)
        assert call("GET", second).json()["position"] == 0
        served.painter.go.release()
        while "preview" not in (found := call("GET", first).json()):
            time.sleep(0.01)
        assert found["state"] == "drawing" and found["progress"] == {"done": 1, "steps": 2}
        assert found["preview"]["level"] == "4"
        assert picture_of(base64.b64decode(found["preview"]["image"])).shape == (4, 4, 3)
        assert "preview" not in call("GET", first, params={"since": 1}).json()
        assert call("DELETE", second).status_code == 204
        found = call("GET", second).json()
        assert (found["state"], found["detail"]) == ("cancelled", "the job was cancelled")
        served.painter.go.release(10)
        while (found := call("GET", first).json())["state"] != "done":
            time.sleep(0.01)
        assert np.all(picture_of(base64.b64decode(found["images"]["8"])) == 0)


def test_statuses_and_sentences():
    with Served() as call:
        for path in ("/api/generate", "/api/jobs"):
            answer = call("POST", path, json={"steps": 0})
            assert answer.status_code == 422
            assert answer.json()["detail"].startswith("`steps` must be an integer of at least 1")
        assert call("POST", "/api/generate", data={"seed": "1"}).status_code == 415
        large = {"prompt": "a" * 20_000}
        answer = call("POST", "/api/generate", json=large)
        assert answer.status_code == 413 and "at most 10000 bytes" in answer.json()["detail"]
        answer = call("POST", "/api/generate", json={"prompt": "broken"})
        assert answer.status_code == 500 and "RuntimeError: broken" in answer.json()["detail"]
        for method, path, status in (
            ("GET", "/api/jobs/none", 404),
            ("DELETE", "/api/jobs/none", 404),
            ("GET", "/api/jobs/none?since=x", 422),
            ("GET", "/nothing", 404),
            ("PUT", "/api/jobs", 405),
        ):
            answer = call(method, path)
            assert answer.status_code == status
            assert isinstance(answer.json()["detail"], str)


def test_a_crowd_is_answered_or_refused_and_none_is_lost():
    served = Served(queue=10, batch=4)

    async def crowd():
        asked = [served("POST", "/api/generate", json={"seed": seed}) for seed in range(40)]
        return await asyncio.gather(*asked)

    with served:
        found = asyncio.run(crowd())
    statuses = [answer.status_code for answer in found]
    assert set(statuses) == {200, 429}
    for seed, answer in enumerate(found):
        if answer.status_code == 200:
            assert answer.json()["parameters"]["seed"] == seed
        else:
            assert int(answer.headers["retry-after"]) >= 1
    assert max(map(len, served.painter.batches)) <= 4
    drawn = [seed for batch in served.painter.batches for seed in batch]
    assert sorted(drawn) == [s for s, status in enumerate(statuses) if status == 200]


def test_hanging_up_frees_the_place():
    served = Served(FakePainter(steps=10_000, held=True))

    async def hang_up():
        """A client that sends a request and is gone before its answer."""
        gone, sent = asyncio.Event(), False

        async def receive():
            nonlocal sent
            if not sent:
                sent = True
                return {"type": "http.request", "body": b"{}"}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            pass

        scope = {"type": "http", "method": "POST", "path": "/api/generate", "query_string": b""}
        headers = [(b"content-type", b"application/json"), (b"host", b"localhost")]
        scope |= {"headers": headers, "http_version": "1.1", "scheme": "http"}
        answer = asyncio.create_task(served.app(scope, receive, send))
        while served.queue.counts()["drawing"] == 0:
            await asyncio.sleep(0.01)
        gone.set()
        await asyncio.wait_for(answer, PATIENCE)
        served.painter.go.release()
        while served.queue.counts()["drawing"]:
            await asyncio.sleep(0.01)

    with served:
        asyncio.run(asyncio.wait_for(hang_up(), PATIENCE))
        assert served.queue.counts()["drawing"] == 0


def test_a_token_opens_all_but_the_page():
    with Served(guard={"token": "secret"}) as call:
        assert call("GET", "/").status_code == call("GET", "/page.js").status_code == 200
        assert call("GET", "/health").status_code in (200, 503)
        for path in ("/api/model", "/metrics", "/openapi.json"):
            assert call("GET", path).status_code == 401
            assert call("GET", path, headers={"Authorization": "Bearer secre"}).status_code == 401
            good = {"Authorization": "Bearer secret"}
            assert call("GET", path, headers=good).status_code == 200
        answer = call("POST", "/api/generate", json={})
        assert answer.status_code == 401 and "wants a token" in answer.json()["detail"]


def test_other_names_are_refused():
    with Served(guard={"hosts": {"localhost", "[::1]"}}) as call:
        assert call("GET", "/health", headers={"Host": "evil.example"}).status_code == 421
        for name in ("localhost:8000", "[::1]:8000", "LOCALHOST"):
            assert call("GET", "/", headers={"Host": name}).status_code == 200


def test_what_the_server_says_of_itself():
    with Served() as call:
        call("POST", "/api/generate", json={})
        call("POST", "/api/generate", json={"steps": 0})
        assert call("GET", "/health").json() == {"status": "ok", "waiting": 0, "drawing": 0}
        found = call("GET", "/api/model").json()
        assert found["card"] == "A card." and found["defaults"]["steps"] == 4
        text = call("GET", "/metrics").text
        for line in (
            'keras_mdm_jobs_total{outcome="done"} 1.0',
            'keras_mdm_answers_total{status="422"} 1.0',
            "keras_mdm_batch_pictures_sum 1.0",
            "keras_mdm_waiting 0.0",
        ):
            assert line in text.splitlines()
        described = call("GET", "/openapi.json").json()
        posted = described["paths"]["/api/generate"]["post"]
        schema = posted["requestBody"]["content"]["application/json"]["schema"]
        assert list(schema["properties"]) == ["prompt", "seed", "steps"]
        assert {"200", "422", "429", "503"} <= set(posted["responses"])
        page = call("GET", "/")
        assert "default-src 'self'" in page.headers["content-security-policy"]
        for path in ("/", "/page.css", "/page.js", "/canvas.js"):  # nothing from other hosts
            text = call("GET", path).text.replace("http://www.w3.org/2000/svg", "")
            assert "http:" not in text and "https:" not in text
