"""Addresses, tokens, and a process that is told to stop."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest

from keras_mdm.serving import server
from serving.fakes import PATIENCE

# A server that takes half a second a step, and what it says.
PROGRAM = """
import time
from serving.fakes import FakePainter
from keras_mdm.serving import Limits, run

class Slow(FakePainter):
    def paint(self, orders, on_step):
        def slow(*step):
            time.sleep(0.5)
            on_step(*step)
        return super().paint(orders, slow)

run(Slow(), Limits(grace={grace}, batch=1), port=0)
"""


def test_others_need_a_token():
    for host in ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost"):
        server.check_address(host, None)
    for host in ("0.0.0.0", "::", "192.168.1.2", "example.org", ""):
        with pytest.raises(ValueError, match="needs a token"):
            server.check_address(host, None)
        server.check_address(host, "secret")
        server.check_address(host, None, open_to_all=True)
    for token in ("", "ö", "a\n"):
        with pytest.raises(ValueError, match="printable ASCII"):
            server.check_address("127.0.0.1", token)


def test_a_port_in_use_is_one_clear_error():
    with server._listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"its port free. Received: .+port={port}"):
            server._listen("127.0.0.1", port)
    for host, port in (("127.0.0.1", 2**17), ("192.0.2.1", 0)):
        with pytest.raises(ValueError, match="one of this machine"):
            server._listen(host, port)


def ask(address, wish, found):
    request = urllib.request.Request(
        f"{address}/api/generate", json.dumps(wish).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            found.append(answer.status)
    except urllib.error.HTTPError as problem:
        found.append(problem.code)


@pytest.mark.parametrize(("grace", "first"), [(PATIENCE, 200), (0.0, 503)])
def test_sigterm_answers_everybody_and_ends(grace, first):
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    pytest.importorskip("prometheus_client")
    code = f"import sys; sys.path.append('tests')\n{PROGRAM.format(grace=grace)}"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    try:
        found = re.search(r"http://\S+", next(line for line in process.stderr if "http" in line))
        answers, threads = [], []
        for seed in range(3):  # one is drawn, two wait
            words = (found[0], {"seed": seed}, answers)
            threads.append(threading.Thread(target=ask, args=words))
            threads[-1].start()
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(PATIENCE)
        assert sorted(answers) == sorted([first, 503, 503])
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read().endswith("stopped\n")
    finally:
        process.kill()
