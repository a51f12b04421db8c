"""A painter without a network, which a test can hold at every step, and a server for any."""

import contextlib
import threading

import numpy as np

from keras_mdm import checks
from keras_mdm.serving.app import create_app
from keras_mdm.serving.guard import Guard
from keras_mdm.serving.limits import Limits
from keras_mdm.serving.metrics import Metrics
from keras_mdm.serving.painting import Order
from keras_mdm.serving.queue import SamplingQueue
from keras_mdm.serving.server import _listen

LEVELS = ("4", "8")
PATIENCE = 20.0


class FakePainter:
    """Draws a picture of its seed. Every step waits for `go`, if `held`."""

    def __init__(self, *, steps=4, held=False):
        self.steps, self.batches = steps, []
        self.go = threading.Semaphore(0) if held else None
        self.drawing = threading.Event()

    def at_work(self):
        return contextlib.nullcontext()

    def rehearsal(self, wanted):
        return iter(())

    def key(self, order):
        return order.key

    def order(self, wish):
        steps = self.steps if wish.steps is None else checks.integer("steps", wish.steps, minimum=1)
        seed = wish.seed or 0
        return Order(wish, {}, (steps,), {"prompt": wish.prompt, "seed": seed, "steps": steps})

    def paint(self, orders, on_step):
        self.batches.append([order.wish.seed for order in orders])
        for order in orders:
            if order.wish.prompt == "broken":
                raise RuntimeError("broken")
        (steps,) = orders[0].key
        for done in range(1, steps + 1):
            self.drawing.set()
            if self.go is not None:
                assert self.go.acquire(timeout=PATIENCE)
            on_step(done, steps, self._levels(orders))
        drawn = self._levels(orders)
        return [({k: v[row] for k, v in drawn.items()}, ()) for row in range(len(orders))]

    @staticmethod
    def _levels(orders):
        colours = np.array([(order.wish.seed or 0) % 256 for order in orders], "uint8")
        return {
            level: np.broadcast_to(
                colours[:, None, None, None], (len(orders), int(level), int(level), 3)
            )
            for level in LEVELS
        }

    def described(self):
        return {
            "fields": ["prompt", "seed", "steps"],
            "levels": [
                {"name": n, "height": int(n), "width": int(n), "frames": None} for n in LEVELS
            ],
            "channels": 3,
            "clips": False,
            "previews": True,
            "classes": None,
            "class_names": None,
            "defaults": {"steps": self.steps, "sampler": "ddim", "level": LEVELS[-1]},
            "samplers": ["ddim"],
            "limits": {"prompt": 2000, "pixels": 1000, "body": 10_000, "queue": 4, "steps": 100},
            "notes": {},
        }


@contextlib.contextmanager
def serving(painter, token=None):
    """Serve a painter at a port of this machine: (queue, address)."""
    import uvicorn

    metrics, limits = Metrics(8), Limits(grace=0.0)
    queue = SamplingQueue(painter, limits, metrics.observe)
    app = Guard(create_app(queue, metrics), body=limits.body, token=token)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", ws="none"))
    with _listen("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        queue.start()
        thread.start()
        try:
            yield queue, f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            queue.close()
            if getattr(painter, "go", None) is not None:
                painter.go.release(10_000)
            thread.join(PATIENCE)
            assert queue.join(PATIENCE)
