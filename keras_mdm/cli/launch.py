"""`keras-mdm launch`: several workers of one program on one machine."""

import argparse
import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from keras_mdm import checks
from keras_mdm.cli import launch_guard, train
from keras_mdm.cli.launch_output import Relay
from keras_mdm.continuing import to_continue

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Seconds that workers get to end after a signal before they are killed; they take 28 s at most, and
# killing them brings it to 30.
PATIENCE = 29.0
# Seconds that their output may then wait for a reader, and after killing them.
LAST_WORDS, AFTER_KILLING = 5.0, 1.0


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the `launch` command to the subparsers of `keras-mdm`.

    Args:
        subparsers: from `ArgumentParser.add_subparsers`.

    Returns:
        The parser of the command; its defaults set `run`.
    """
    parser = subparsers.add_parser(
        "launch",
        help="start several workers on this machine",
        description="Starts a Python program n times with TF_CONFIG set, so that "
        "keras_mdm.distribute.strategy() connects the workers. Prints their output "
        "line by line with the worker's number. SIGTERM, SIGINT and SIGHUP ask all "
        "workers to end, which they do within 30 s. A second Ctrl-C ends them at once, "
        "and so does killing this command. If one worker fails, all of them and the "
        "command end, unless --restarts allows another start.",
    )
    parser.add_argument("-n", "--workers", type=int, default=2, help="number (default: 2)")
    parser.add_argument(
        "--restarts",
        type=int,
        default=0,
        help="how often to restart all workers after a failure, such as a machine that ran "
        "out of memory (default: 0); restarts leave out --fresh, so that a run "
        "continues",
    )
    parser.add_argument(
        "program", metavar="PROGRAM.py", help="the program; or `train NAME` for a recipe"
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out `keras-mdm launch`.

    Args:
        args: the parsed arguments of `add_parser`.

    Returns:
        0 if all workers of the last attempt ended well, else the exit code of the first that did
        not.

    Raises:
        ValueError: if the program is not a file, the recipe does not exist, or the number is below
            1.
    """
    count = checks.integer("workers", args.workers, minimum=1)
    program, arguments = args.program, args.arguments
    if program == "train" and arguments:
        program, arguments = str(train.path_of(arguments[0])), arguments[1:]
    if not os.path.isfile(program):
        raise checks.error("the program must be a file", fix="check the path", program=program)
    left = checks.integer("restarts", args.restarts, minimum=0)
    while True:
        code, asked_to_stop = _attempt(count, [program, *arguments])
        if not code or asked_to_stop or not left:
            return code
        left -= 1
        arguments = to_continue(arguments)
        print(f"starting again, {left} restarts left after this", flush=True)


def _attempt(count: int, program: list[str]) -> tuple[int, bool]:
    """Run all workers to their end: (exit code, whether a signal asked them to stop)."""
    addresses = [f"localhost:{port}" for port in free_ports(count)]
    command = [sys.executable, "-u", *program]
    with _noted_signals() as received, _guarded(count) as (tell, outputs):
        relay = Relay([reading for reading, _ in outputs])
        relay.start()
        try:
            processes = []
            for index, (_, writing) in enumerate(outputs):
                task = {"type": "worker", "index": index}
                config = {"cluster": {"worker": addresses}, "task": task}
                process = subprocess.Popen(
                    command,
                    env={**os.environ, "TF_CONFIG": json.dumps(config)},
                    stdout=writing,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # this process forwards the terminal's Ctrl-C
                )
                tell(f"+{process.pid}")
                os.close(writing)
                processes.append(process)
            code, deadline = _wait(processes, received, tell, relay)
        finally:
            relay.finish()
        _hear_out(relay, received, deadline)
    return code, bool(received)


def free_ports(count: int) -> list[int]:
    """Different ports on which nobody listens at the moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for found in sockets:
            found.bind(("localhost", 0))
        return [found.getsockname()[1] for found in sockets]


@contextlib.contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """Note the signals that come in the body of the `with` statement."""
    received: list[int] = []
    before = {}
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            before[number] = signal.signal(number, lambda caught, frame: received.append(caught))
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _guarded(count: int) -> Iterator[tuple[Callable[[str], None], list[tuple[int, int]]]]:
    """Have another process end the workers if this one is gone.

    Yields the function that tells it about them, and pipes for their output: (reading, writing).
    """
    outputs = [os.pipe() for _ in range(count)]
    reading = [output for output, _ in outputs]
    guard = subprocess.Popen(
        [sys.executable, "-I", launch_guard.__file__, str(PATIENCE), *map(str, reading)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        pass_fds=reading,
    )

    def tell(line: str) -> None:
        with contextlib.suppress(OSError):  # it was killed, and cannot help
            guard.stdin.write(f"{line}\n".encode())
            guard.stdin.flush()

    try:
        yield tell, outputs
    finally:
        with contextlib.suppress(OSError):
            guard.stdin.close()  # to the guard, this is the end of the launcher
        if sys.exc_info()[0] is None:
            guard.wait()


def _wait(
    processes: list[subprocess.Popen],
    received: list[int],
    tell: Callable[[str], None],
    relay: Relay,
) -> tuple[int, float | None]:
    """Wait for all; forward signals; when one fails, end the others.

    Returns:
        The exit code, and the time at which workers that do not end are killed.
    """
    failed, deadline, forwarded, running = 0, None, 0, list(processes)
    while True:
        for process in [process for process in running if process.poll() is not None]:
            running.remove(process)
            tell(f"-{process.pid}")
        codes = [process.returncode for process in processes]
        now = time.monotonic()
        if not failed and any(codes):
            failed = next(code for code in codes if code)
            relay.say(f"worker {codes.index(failed)} ended with {failed}: ending the others")
            _signal(running, signal.SIGTERM)
            deadline = deadline or now + PATIENCE
        for number in received[forwarded:]:
            # A second Ctrl-C is meant; closing the terminal is a request like any other.
            if number == signal.SIGINT and forwarded:
                deadline = now
            _signal(running, signal.SIGTERM if number == signal.SIGHUP else number)
            deadline = deadline or now + PATIENCE
            forwarded += 1
        if not running:
            if deadline is not None:
                _kill_groups(processes)  # processes that the workers left behind
            return 128 - failed if failed < 0 else failed, deadline
        if deadline is not None and now >= deadline:
            _kill_groups(running)
        time.sleep(0.1)


def _hear_out(relay: Relay, received: list[int], deadline: float | None) -> None:
    """Wait until all is printed: without a limit, as any program waits for its reader, until a
    signal comes."""
    until = math.inf
    while relay.is_alive() and time.monotonic() < until:
        if received and until == math.inf:
            until = time.monotonic() + LAST_WORDS
            until = min(until, (deadline or until) + AFTER_KILLING)
        relay.join(0.1)


def _signal(processes: list[subprocess.Popen], number: int) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)


def _kill_groups(processes: list[subprocess.Popen]) -> None:
    """Kill workers and all processes that they started; each has a group of its own."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
