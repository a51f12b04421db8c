"""One queue, one thread: batches, places, cancelling, the end."""

import threading
import time

import numpy as np
import pytest

from keras_mdm.serving.jobs import CANCELLED, DONE, DRAWING, FAILED, WAITING, Job
from keras_mdm.serving.limits import Limits, Refused
from keras_mdm.serving.queue import SamplingQueue
from keras_mdm.serving.wishes import Wish
from serving.fakes import PATIENCE, FakePainter


@pytest.fixture
def make():
    """Queues over a `FakePainter`; all of them end with the test."""
    made = []

    def make(painter, **limits):
        made.append(SamplingQueue(painter, Limits(**{"grace": 0.0, **limits})))
        made[-1].start()
        assert made[-1].wait_ready()
        return made[-1]

    yield make
    for queue in made:
        queue.close()
        if queue.painter.go is not None:
            queue.painter.go.release(1000)
        assert queue.join(PATIENCE)


def submit(queue, seed, steps=None, prompt=None, **options):
    return queue.submit(queue.painter.order(Wish(seed=seed, steps=steps, prompt=prompt)), **options)


def ended(job):
    over = threading.Event()
    job.when_over(over.set)
    assert over.wait(PATIENCE)
    return job


def until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_job_that_is_cancelled_while_it_is_taken_ends_nothing(make):
    class Painter(FakePainter):
        def key(self, order):
            if order.wish.prompt == "gone":
                gone.cancel()  # its client hangs up at this moment
            return super().key(order)

    queue = make(Painter())
    gone = Job(queue.painter.order(Wish(seed=1, prompt="gone")))
    with queue._changed:
        queue._waiting.append(gone)
    assert ended(submit(queue, 2)).state == DONE
    assert queue.state == "ok" and gone.state == CANCELLED


def test_orders_that_fit_share_a_batch_and_every_job_gets_its_own_picture(make):
    painter = FakePainter(held=True)
    queue = make(painter, batch=3)
    first = submit(queue, 1)
    assert painter.drawing.wait(PATIENCE)
    others = [
        submit(queue, seed, steps) for seed, steps in ((2, 4), (3, 2), (4, 4), (5, 4), (6, 4))
    ]
    assert [queue.position(job) for job in others] == [0, 1, 2, 3, 4]
    painter.go.release(100)
    for job, seed in zip([first, *others], range(1, 7), strict=True):
        assert ended(job).state == DONE
        assert np.all(job.pictures["8"] == seed) and job.pictures["8"].shape == (8, 8, 3)
    # The oldest first, with those behind it of the same number of steps, at most three.
    assert painter.batches == [[1], [2, 4, 5], [3], [6]]


def test_a_full_queue_refuses_and_says_when_to_come_back(make):
    painter = FakePainter(held=True)
    queue = make(painter, queue=2)
    submit(queue, 0)
    assert painter.drawing.wait(PATIENCE)
    waiting = [submit(queue, 1), submit(queue, 2)]
    with pytest.raises(Refused, match="at most 2 requests may wait") as found:
        submit(queue, 3)
    assert found.value.status == 429 and found.value.retry_after >= 1.0
    queue.cancel(waiting[0])  # which frees its place at once
    assert queue.position(waiting[1]) == 0
    assert submit(queue, 3).state == WAITING


def test_a_batch_that_nobody_wants_ends_after_its_step(make):
    painter = FakePainter(steps=100, held=True)
    queue = make(painter)
    gone = submit(queue, 1)
    assert painter.drawing.wait(PATIENCE)
    queue.cancel(gone)
    wanted = submit(queue, 2, steps=1)
    painter.go.release(2)  # one step of each, not a hundred
    assert ended(wanted).state == DONE
    assert gone.state == CANCELLED and not gone.pictures


def test_a_batch_goes_on_for_those_who_stay(make):
    painter = FakePainter(held=True)
    queue = make(painter)
    submit(queue, 0)
    assert painter.drawing.wait(PATIENCE)
    gone, stays = submit(queue, 1), submit(queue, 2)
    painter.go.release(4)
    until(lambda: len(painter.batches) == 2)
    queue.cancel(gone)
    painter.go.release(4)
    assert ended(stays).state == DONE
    assert painter.batches[1] == [1, 2] and gone.state == CANCELLED


def test_no_job_fails_for_another(make):
    painter = FakePainter(held=True)
    queue = make(painter)
    submit(queue, 0)
    assert painter.drawing.wait(PATIENCE)
    broken, well = submit(queue, 1, prompt="broken"), submit(queue, 2)
    painter.go.release(100)
    assert ended(well).state == DONE
    assert ended(broken).state == FAILED and broken.status == 500
    assert broken.problem == "the picture could not be drawn: RuntimeError: broken"


def test_previews_show_low_levels_first():
    job, seen = Job(None), []
    levels = {level: np.zeros((int(level), int(level), 3)) for level in ("4", "8", "16")}
    for done in range(1, 10):
        job.show(done, 9, levels)
        seen.append(job.preview.level)
    assert seen == ["4"] * 3 + ["8"] * 3 + ["16"] * 3
    job.show(1, 1, levels)  # a single step has a preview as well
    assert job.preview.level == "8"


def test_a_job_that_nobody_asks_for_is_given_up(make):
    painter = FakePainter(steps=1000, held=True)
    queue = make(painter, patience=0.2)
    job = submit(queue, 1, keep=True)
    assert painter.drawing.wait(PATIENCE)
    for _ in range(4):  # somebody asks
        time.sleep(0.1)
        job.touch()
        painter.go.release()
    assert job.state == DRAWING
    time.sleep(0.3)
    painter.go.release()
    assert ended(job).state == CANCELLED


def test_finished_jobs_are_forgotten_beyond_the_limit(make):
    queue = make(FakePainter(), kept=2)
    jobs = [ended(submit(queue, seed, keep=True)) for seed in range(5)]
    assert [queue.find(job.id) is job for job in jobs] == [False, False, True, True, True]
    assert queue.find(ended(submit(queue, 9)).id) is None  # not kept at all


def test_the_end_refuses_what_waits_and_lets_the_batch_finish_in_time(make):
    painter = FakePainter(held=True)
    queue = make(painter, grace=PATIENCE)
    running = submit(queue, 1)
    assert painter.drawing.wait(PATIENCE)
    waiting = submit(queue, 2, steps=7)
    queue.close()
    assert waiting.state == FAILED and waiting.status == 503 and waiting.retry_after
    with pytest.raises(Refused) as found:
        submit(queue, 3)
    assert found.value.status == 503
    painter.go.release(4)
    assert ended(running).state == DONE and queue.join(PATIENCE)


def test_the_end_breaks_a_batch_off_after_the_grace_period(make):
    painter = FakePainter(steps=1000, held=True)
    queue = make(painter, grace=0.0)
    running = submit(queue, 1)
    assert painter.drawing.wait(PATIENCE)
    queue.close()
    time.sleep(0.01)
    painter.go.release()
    assert ended(running).status == 503 and queue.join(PATIENCE)


def test_a_painter_that_cannot_work_fails_all_jobs_instead_of_hanging():
    class Broken(FakePainter):
        def at_work(self):
            raise OSError("no device")

    queue = SamplingQueue(Broken(), Limits())
    queue.start()
    assert queue.join(PATIENCE) and not queue.wait_ready()
    assert str(queue.failure) == "no device" and queue.state == "stopping"
    with pytest.raises(Refused):
        submit(queue, 1)
