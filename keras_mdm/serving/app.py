"""The application: a page, and a JSON API that OpenAPI describes."""

import asyncio
import base64
import importlib.metadata
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_mdm import checks
from keras_mdm.serving import answers
from keras_mdm.serving.extra import needed
from keras_mdm.serving.files import encode
from keras_mdm.serving.jobs import DONE, FAILED, Job
from keras_mdm.serving.limits import Refused
from keras_mdm.serving.metrics import Metrics
from keras_mdm.serving.queue import SamplingQueue
from keras_mdm.serving.wishes import read, schema

# How often an answer that waits looks whether its client is still there.
_LOOK = 0.2
_PAGE = Path(__file__).parent / "page"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
# The page fetches nothing from anywhere else, and shows pictures that it holds.
_POLICY = "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'"
_NO_STORE = {"Cache-Control": "no-store"}


def create_app(queue: SamplingQueue, metrics: Metrics, *, card: str = "") -> Any:
    """Make the FastAPI application over a queue.

    Args:
        queue: with its painter; started or not.
        metrics: what `/metrics` shows.
        card: text about the model, Markdown.

    Returns:
        The application; `run` puts a `Guard` before it.

    Raises:
        ValueError: if FastAPI is not installed.
    """
    with needed():
        from fastapi import FastAPI, Request, Response
        from fastapi.exceptions import RequestValidationError
        from fastapi.responses import JSONResponse
        from starlette.exceptions import HTTPException
    painter, limits = queue.painter, queue.limits
    described = painter.described()
    body = {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": schema(described["fields"], described["defaults"], limits)
                }
            },
        }
    }
    app = FastAPI(
        title="keras-mdm",
        description="Pictures drawn by a Matryoshka diffusion model.",
        version=_version(),
        docs_url=None,  # its page would be fetched from another host
        redoc_url=None,
    )

    @app.exception_handler(Refused)
    async def refused(request: Request, problem: Refused) -> Response:
        headers = {}
        if problem.retry_after is not None:
            headers["Retry-After"] = str(math.ceil(problem.retry_after))
        return JSONResponse({"detail": str(problem)}, problem.status, headers)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, problem: HTTPException) -> Response:
        return JSONResponse(
            {"detail": f"{problem.detail}; what there is stands in /openapi.json"},
            problem.status_code,
            problem.headers,
        )

    @app.exception_handler(RequestValidationError)
    async def wrong(request: Request, problem: RequestValidationError) -> Response:
        first = problem.errors()[0]
        name, value = str(first["loc"][-1]), str(first.get("input"))[:80]
        sentence = checks.error(
            f"`{name}` must be as /openapi.json says",
            fix=first["msg"][:1].lower() + first["msg"][1:],
            **{name: value},
        )
        return JSONResponse({"detail": str(sentence)}, 422)

    async def order_of(request: Request) -> Any:
        """What a request asks for, checked outside of the event loop."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # which other sites' pages cannot send unasked
            raise Refused(
                415,
                checks.error(
                    "a request must be JSON",
                    fix="send the header `Content-Type: application/json`",
                    content_type=kind[:80],
                ),
            )
        sent = await request.body()

        def checked() -> Any:
            try:
                return painter.order(read(sent, described["fields"], limits, described["channels"]))
            except ValueError as problem:
                raise Refused(422, problem) from problem

        return await asyncio.to_thread(checked)

    def job_of(name: str) -> Job:
        job = queue.find(name)
        if job is None:
            raise Refused(
                404,
                checks.error(
                    "a job must be one of this server that is not forgotten",
                    fix=f"fetch it within {limits.patience:g} seconds, before {limits.kept} others",
                    job=name[:80],
                ),
            )
        return job

    @app.post("/api/generate", openapi_extra=body, responses=answers.GENERATE, tags=["pictures"])
    async def generate(request: Request) -> Response:
        """Draw a picture and wait for it. With `Accept: image/png` the answer is the picture of
        the highest level; else JSON with all levels. Hanging up cancels it."""
        job = queue.submit(await order_of(request))
        over, loop = asyncio.Event(), asyncio.get_running_loop()
        job.when_over(lambda: _tell(loop, over))
        try:
            while not over.is_set():
                try:
                    await asyncio.wait_for(over.wait(), _LOOK)
                except TimeoutError:
                    if await request.is_disconnected():
                        break
        finally:
            if not job.over:
                queue.cancel(job)
        if job.state != DONE:
            raise Refused(job.status, job.problem, job.retry_after)
        accepted = request.headers.get("accept", "").partition(",")[0].partition(";")[0].strip()
        if accepted == "image/png":
            *_, top = job.pictures.values()
            content = await asyncio.to_thread(encode, top, job.order.parameters)
            headers = {"X-Seed": str(job.order.parameters["seed"]), **_NO_STORE}
            return Response(content, media_type="image/png", headers=headers)
        return JSONResponse(await asyncio.to_thread(_finished, job), headers=_NO_STORE)

    @app.post(
        "/api/jobs", status_code=202, openapi_extra=body, responses=answers.JOBS, tags=["jobs"]
    )
    async def begin(request: Request) -> Response:
        """Put a picture into the queue and return its job at once. A job that nobody asks for
        during the server's patience is cancelled."""
        job = queue.submit(await order_of(request), keep=True)
        found = {"id": job.id, "state": job.state, "position": queue.position(job)}
        return JSONResponse(found, 202, {"Location": f"/api/jobs/{job.id}", **_NO_STORE})

    @app.get("/api/jobs/{name}", responses=answers.JOB, tags=["jobs"])
    async def look(name: str, since: int = 0) -> Response:
        """State of a job: its place in the queue, a preview if more than `since` steps are done,
        and its pictures at the end."""
        job = job_of(name)
        job.touch()
        return JSONResponse(await asyncio.to_thread(_state, queue, job, since), headers=_NO_STORE)

    @app.delete("/api/jobs/{name}", status_code=204, responses=answers.CANCEL, tags=["jobs"])
    async def cancel(name: str) -> Response:
        """Cancel a job: its place is free at once, or after the running step."""
        queue.cancel(job_of(name))
        return Response(status_code=204)

    @app.get("/api/model", responses=answers.MODEL, tags=["server"])
    async def model() -> Response:
        """The model: levels, what may be given, defaults, limits, classes, and its card."""
        return JSONResponse({**described, "card": card, "version": _version()})

    @app.get("/health", responses=answers.HEALTH, tags=["server"])
    async def health() -> Response:
        """200 once pictures are drawn; 503 before, and when the server stops."""
        found = {"status": queue.state, **queue.counts()}
        return JSONResponse(found, 200 if queue.state == "ok" else 503, _NO_STORE)

    @app.get("/metrics", responses=answers.METRICS, tags=["server"])
    async def measured() -> Response:
        """Counts for Prometheus."""
        content, kind = metrics.text()
        return Response(content, headers={"Content-Type": kind})

    for path, file in {"/": "index.html", **{f"/{n}": n for n in answers.PAGE_FILES}}.items():
        content, kind = (_PAGE / file).read_bytes(), _TYPES[Path(file).suffix]
        headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"}
        headers |= {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}

        def show(content: bytes = content, kind: str = kind, headers: Any = headers) -> Response:
            return Response(content, media_type=kind, headers=headers)

        app.add_route(path, lambda request, show=show: show(), methods=["GET"])
    return app


def _tell(loop: asyncio.AbstractEventLoop, over: asyncio.Event) -> None:
    """Set an event of a loop from another thread, unless the loop has ended."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(over.set)


def _state(queue: SamplingQueue, job: Job, since: int) -> dict[str, Any]:
    found: dict[str, Any] = {"id": job.id, "state": job.state}
    place = queue.position(job)
    if place is not None:
        found["position"] = place
    preview = job.preview
    if preview is not None and not job.over:
        found["progress"] = {"done": preview.done, "steps": preview.steps}
        if preview.done > since:
            found["preview"] = {"level": preview.level, "image": _base64(preview.picture)}
    if job.state == DONE:
        found |= _finished(job)
    elif job.over:
        found["detail"] = job.problem
    if job.state == FAILED:
        found["status"] = job.status
    return found


def _finished(job: Job) -> dict[str, Any]:
    """A drawn picture as plain values."""
    parameters = job.order.parameters
    begun, ended = job.begun or job.made, job.ended or job.made
    return {
        "id": job.id,
        "images": {level: _base64(each, parameters) for level, each in job.pictures.items()},
        "parameters": parameters,
        "notes": list(job.notes),
        "seconds": {"waiting": round(begun - job.made, 3), "drawing": round(ended - begun, 3)},
    }


def _base64(picture: Any, parameters: Mapping[str, Any] | None = None) -> str:
    return base64.b64encode(encode(picture, parameters)).decode()


def _version() -> str:
    try:
        return importlib.metadata.version("keras-mdm")
    except importlib.metadata.PackageNotFoundError:  # a source tree that was never installed
        return "0"
