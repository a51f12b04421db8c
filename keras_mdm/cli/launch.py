"""`keras-mdm launch`: several workers of one program on one machine."""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

from keras_mdm import checks

# How long workers get to end after a signal before they are killed.
PATIENCE = 30.0


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the `launch` command to the subparsers of `keras-mdm`.

    Args:
        subparsers: what `ArgumentParser.add_subparsers` returned.

    Returns:
        The parser of the command; its defaults set `run`.
    """
    parser = subparsers.add_parser(
        "launch",
        help="start several workers on this machine",
        description="Starts a Python program n times with TF_CONFIG set, so that "
        "keras_mdm.distribute.strategy() connects them. Output comes line by line with the "
        "worker's number; SIGTERM and SIGINT go to all; when one fails all end, and so does the "
        "command, unless it may start them again.",
    )
    parser.add_argument("-n", "--workers", type=int, default=2, help="number (default: 2)")
    parser.add_argument(
        "--restarts",
        type=int,
        default=0,
        help="how often to start all again after a failure, such as a machine that ran out of "
        "memory (default: 0); --fresh is left out then, so that a run goes on",
    )
    parser.add_argument("program", metavar="PROGRAM.py", help="the program")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out `keras-mdm launch`.

    Args:
        args: the parsed arguments of `add_parser`.

    Returns:
        0 if all workers ended well, else the exit code of the first that did not in the last
        attempt.

    Raises:
        ValueError: if the program is no file or the number is below 1.
    """
    count = checks.integer("workers", args.workers, minimum=1)
    if not os.path.isfile(args.program):
        raise checks.error("the program must be a file", fix="check the path", program=args.program)
    left, arguments = checks.integer("restarts", args.restarts, minimum=0), args.arguments
    while True:
        code, asked_to_stop = _attempt(count, [args.program, *arguments])
        if not code or asked_to_stop or not left:
            return code
        left -= 1
        arguments = [word for word in arguments if word != "--fresh"]
        print(f"starting again, {left} restarts left after this", flush=True)


def _attempt(count: int, program: list[str]) -> tuple[int, bool]:
    """Run all workers to their end: (exit code, whether a signal asked them to stop)."""
    addresses = [f"localhost:{port}" for port in free_ports(count)]
    command = [sys.executable, "-u", *program]
    processes = []
    for index in range(count):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        processes.append(
            subprocess.Popen(
                command,
                env={**os.environ, "TF_CONFIG": json.dumps(config)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # the terminal's Ctrl-C comes by way of this process
                text=True,
                errors="replace",
            )
        )
    readers = [
        threading.Thread(target=_forward, args=(process, index), daemon=True)
        for index, process in enumerate(processes)
    ]
    with _forwarded_signals(processes) as received:
        for reader in readers:
            reader.start()
        code = _wait(processes)
    for reader in readers:
        reader.join(timeout=5.0)
    return code, bool(received)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at the moment, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for found in sockets:
            found.bind(("localhost", 0))
        return [found.getsockname()[1] for found in sockets]


def _forward(process: subprocess.Popen, index: int) -> None:
    with process.stdout as output:
        for line in output:
            print(f"[{index}] {line}", end="", flush=True)


@contextlib.contextmanager
def _forwarded_signals(processes: list[subprocess.Popen]):
    received = []

    def forward(number, frame):
        received.append(number)
        _signal(processes, number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _signal(processes: list[subprocess.Popen], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)


def _wait(processes: list[subprocess.Popen]) -> int:
    """Wait for all; when one fails, end the others."""
    failed, deadline = 0, None
    while True:
        codes = [process.poll() for process in processes]
        if not failed and any(codes):
            failed = next(code for code in codes if code)
            print(
                f"worker {codes.index(failed)} ended with {failed}: ending the others", flush=True
            )
            _signal(processes, signal.SIGTERM)
            deadline = time.monotonic() + PATIENCE
        if None not in codes:
            return 128 - failed if failed < 0 else failed
        if deadline is not None and time.monotonic() > deadline:
            _signal(processes, signal.SIGKILL)
        time.sleep(0.1)
