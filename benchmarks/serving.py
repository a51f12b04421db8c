"""What a server does under load: previews, crowds, clients that leave, memory, its end.

    python benchmarks/serving.py runs/demo

Starts `keras-mdm serve` and asks for pictures: one after the other, to see when the first preview
comes; a crowd at once; in batches and alone, to compare them; by clients that hang up, in the queue
and while they are drawn; many, to see whether memory grows; and a crowd when the server is stopped.
"""

import argparse
import collections
import concurrent.futures
import http.client
import json
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROMPTS = ("a red apple", "panda", "rainbow", "sunflower", "octopus", "watermelon", "heart")
PATIENCE = 600.0


class Server:
    """A server in a process of its own, and requests to it."""

    def __init__(self, model: str, words: list[str]):
        began = time.monotonic()
        command = [sys.executable, "-m", "keras_mdm", "serve", model, "--port", "0", *words]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if found := re.search(r"serving at http://([\d.]+):(\d+)", line):
                self.host, self.port = found[1], int(found[2])
                break
        else:
            raise SystemExit(f"the server ended with status {self.process.wait()}")
        while self.call("GET", "/health")[0] != 200:
            time.sleep(0.2)
        self.started = round(time.monotonic() - began, 1)

    def call(self, method: str, path: str, wish: dict | None = None) -> tuple[int, dict]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)
        body = None if wish is None else json.dumps(wish)
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        kind = answer.headers.get_content_type()
        return answer.status, json.loads(content) if kind == "application/json" else {
            "text": content.decode()
        }

    def hanging(self, wish: dict) -> socket.socket:
        """Send a request and return its connection."""
        body = json.dumps(wish).encode()
        connection = socket.create_connection((self.host, self.port))
        connection.sendall(
            b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        return connection

    def counts(self) -> tuple[int, int]:
        _, found = self.call("GET", "/health")
        return found["waiting"], found["drawing"]

    def wait_for(self, condition) -> float:
        began = time.monotonic()
        while not condition(*self.counts()):
            if time.monotonic() - began > PATIENCE:
                raise SystemExit("the server does not come to rest")
            time.sleep(0.02)
        return time.monotonic() - began

    def megabytes(self) -> float:
        text = self.call("GET", "/metrics")[1]["text"]
        return float(re.search(r"^process_resident_memory_bytes (\S+)", text, re.M)[1]) / 2**20


def wishes(count: int, **options) -> list[dict]:
    rng = random.Random(0)
    return [
        {"prompt": PROMPTS[i % len(PROMPTS)], "seed": rng.randrange(2**31), **options}
        for i in range(count)
    ]


def previews(server: Server, count: int) -> dict:
    """Seconds from the request to the first preview and to the picture."""
    rows = []
    for wish in wishes(count):
        began, first = time.monotonic(), None
        job = server.call("POST", "/api/jobs", wish)[1]["id"]
        while True:
            found = server.call("GET", f"/api/jobs/{job}")[1]
            if first is None and "preview" in found:
                first = time.monotonic() - began
            if found["state"] == "done":
                break
            time.sleep(0.01)
        rows.append((first, time.monotonic() - began))
    first, last = (statistics.median(column) for column in zip(*rows, strict=True))
    return {
        "first preview": round(first, 2),
        "picture": round(last, 2),
        "share": round(first / last, 2),
        "worst share": round(max(a / b for a, b in rows), 2),
    }


def crowd(server: Server, count: int, **options) -> dict:
    """Requests at once: how each is answered, and when the last one is."""
    began = time.monotonic()

    def one(wish: dict) -> tuple[int, float]:
        try:
            status, found = server.call("POST", "/api/generate", wish)
        except (OSError, http.client.HTTPException) as problem:
            return type(problem).__name__, time.monotonic() - began
        if status == 200 and found["parameters"]["seed"] != wish["seed"]:
            return "the picture of another", 0.0
        return status, time.monotonic() - began

    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        found = list(pool.map(one, wishes(count, **options)))
    answered = collections.Counter(str(status) for status, _ in found)
    return {
        "requests": count,
        "answers": dict(sorted(answered.items())),
        "last answer": round(max(seconds for _, seconds in found), 1),
    }


def neighbours(server: Server, count: int) -> dict:
    """Pictures drawn in batches beside the same ones drawn alone."""

    def drawn(wish: dict) -> dict:
        return server.call("POST", "/api/generate", wish)[1]["images"]

    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        together = list(pool.map(drawn, wishes(count)))
    equal = sum(drawn(wish) == found for wish, found in zip(wishes(count), together, strict=True))
    return {"pictures": count, "equal bit for bit": equal}


def leaving(server: Server, count: int) -> dict:
    """Clients that hang up: how long the next one waits, compared with an idle server."""

    def timed() -> float:
        began = time.monotonic()
        server.call("POST", "/api/generate", wishes(1)[0])
        return time.monotonic() - began

    idle = timed()
    slow = server.hanging(wishes(1, steps=server.most)[0])
    server.wait_for(lambda waiting, drawing: drawing == 1)
    time.sleep(1.0)
    others = [server.hanging(wish) for wish in wishes(count, steps=server.most - 1)]
    server.wait_for(lambda waiting, drawing: waiting == count)
    for each in (slow, *others):
        each.close()
    return {
        "clients that left": 1 + count,
        "steps of each": server.most,
        "next picture": round(timed(), 2),
        "on an idle server": round(idle, 2),
    }


def memory(server: Server, count: int, steps: int, parts: int = 10) -> dict:
    """Megabytes of the server's process after every part of many requests, eight at a time."""
    found = [round(server.megabytes())]
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for part in range(parts):
            given = [
                {**wish, "prompt": f"{wish['prompt']} {part} {i}"}  # none is known already
                for i, wish in enumerate(wishes(count // parts, steps=steps))
            ]
            statuses = set(
                pool.map(lambda wish: server.call("POST", "/api/generate", wish)[0], given)
            )
            if statuses != {200}:
                raise SystemExit(f"answers of {statuses}")
            found.append(round(server.megabytes()))
    seconds = time.monotonic() - began
    return {
        "requests": count,
        "steps": steps,
        "MiB": found,
        "pictures per second": round(count / seconds, 2),
    }


def ending(server: Server, count: int) -> dict:
    """A crowd when the server is told to stop."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(crowd, server, count)
        server.wait_for(lambda waiting, drawing: waiting + drawing >= count)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        status = server.process.wait(PATIENCE)
        seconds = time.monotonic() - began
        return {
            "answers": asked.result()["answers"],
            "seconds": round(seconds, 1),
            "exit status": status,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="as for `keras-mdm serve`")
    parser.add_argument("--crowd", type=int, default=100)
    parser.add_argument("--requests", type=int, default=500, help="for the memory")
    parser.add_argument("--steps", type=int, default=2, help="of these")
    parser.add_argument("--serve", nargs=argparse.REMAINDER, default=[], help="words of `serve`")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/serving.json")
    args = parser.parse_args()
    server, found = Server(args.model, args.serve), {}
    server.most = server.call("GET", "/api/model")[1]["limits"]["steps"]
    try:
        for name, measure in (
            ("seconds until ready", lambda: server.started),
            ("previews", lambda: previews(server, 5)),
            ("crowd", lambda: crowd(server, args.crowd)),
            ("neighbours", lambda: neighbours(server, 9)),
            ("leaving", lambda: leaving(server, 20)),
            ("memory", lambda: memory(server, args.requests, args.steps)),
            ("ending", lambda: ending(server, 20)),
        ):
            found[name] = measure()
            print(f"{name}: {json.dumps(found[name])}", flush=True)
    finally:
        server.process.terminate()
        server.process.wait()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
