"""`keras-mdm doctor`: what this machine has, what works on it, and what to do."""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras_mdm.cli import doctor_advice
from keras_mdm.cli.doctor_trials import TRIALS

FAILED = 1
WORKER = ("-m", "keras_mdm.cli.doctor_trials")  # arguments of Python


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the `doctor` command to the subparsers of `keras-mdm`.

    Args:
        subparsers: from `ArgumentParser.add_subparsers`.

    Returns:
        The parser of the command; its defaults set `run`.
    """
    parser = subparsers.add_parser(
        "doctor",
        help="what this machine has, what works on it, and what to do",
        description="Lists devices, drivers and TensorFlow's build, and tries on a tiny network "
        "what users do: training steps in every precision, with XLA and on two GPUs, sampling, "
        "export. Ends with exit code 1 if anything fails; what the machine "
        "has no hardware for is not run.",
    )
    parser.add_argument(
        "--only", nargs="+", metavar="TRIAL", choices=list(TRIALS), help=f"of: {', '.join(TRIALS)}"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out `keras-mdm doctor`.

    Args:
        args: the parsed arguments of `add_parser`.

    Returns:
        0 if everything that could be tried works, else 1.
    """
    say: Callable[[str], None] = (lambda line: None) if args.json else _print
    found = examine(args.only or list(TRIALS), say)
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        _print("\n".join(["", *(f"- {sentence}" for sentence in found["advice"])]))
    failed = found["machine"] is None or any(t["result"] == "failed" for t in found["trials"])
    return FAILED if failed else 0


def _print(line: str) -> None:
    print(line, flush=True)


def examine(names: Sequence[str], say: Callable[[str], None] = _print) -> dict[str, Any]:
    """Try everything named, and say what is found as it is found.

    Args:
        names: keys of `TRIALS`.
        say: function (line), for people who wait.

    Returns:
        dict with `host`, `machine`, `trials` and `advice`.
    """
    host = doctor_advice.host()
    say(host_lines(host))
    machine, trials, left = None, [], list(names)
    while left:
        seen, results, message = _child(left, say if machine is None else lambda line: None, say)
        machine = machine or seen
        trials += results
        if seen is None:  # TensorFlow cannot be imported, or its devices cannot be listed
            say(message)
            break
        left = left[len(results) :]
    return {
        "host": host,
        "machine": machine,
        "trials": trials,
        "advice": doctor_advice.advice(host, machine, trials),
    }


def _child(
    names: Sequence[str], say_machine: Callable[[str], None], say: Callable[[str], None]
) -> tuple[dict[str, Any] | None, list[dict[str, Any]], str]:
    """(machine, results, last lines of the errors) of one process; a trial in which it dies has
    failed."""
    machine, results, begun = None, [], None
    command = [sys.executable, *WORKER, *names]
    with tempfile.TemporaryFile("w+") as messages:
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=messages, text=True
        ) as process:
            for line in process.stdout or ():
                value = json.loads(line)
                if "machine" in value:
                    machine = value["machine"]
                    say_machine(machine_lines(machine))
                    say_machine(HEADER)
                elif "begins" in value:
                    begun = value["begins"]
                else:
                    results.append(value)
                    say(row(value))
        messages.seek(0)
        last = "\n".join(messages.read().splitlines()[-20:])
    if machine is not None and len(results) < len(names):
        name = begun if begun is not None else names[0]
        why = f"the process ended with code {process.returncode}: {last[-500:]}"
        title = TRIALS[name][0]
        results.append({"trial": name, "title": title, "result": "failed", "why": why})
        say(row(results[-1]))
    return machine, results, last


def host_lines(host: Mapping[str, Any]) -> str:
    """The host in a few lines."""
    bfloat16 = ", ".join(host["bfloat16_in_hardware"]) or "none"
    nvidia = host["nvidia"]
    if nvidia is None:
        card = "no nvidia-smi"
    elif nvidia["driver"]:
        card = f"driver {nvidia['driver']}: {'; '.join(nvidia['gpus'])}"
    else:
        card = f"nvidia-smi fails: {nvidia['message']}"
    return "\n".join(
        [
            f"processor   {host['processor']}, {host['cores']} cores, {host['memory_gib']} GiB",
            f"bfloat16    {bfloat16}",
            f"NVIDIA      {card}",
        ]
    )


def machine_lines(machine: Mapping[str, Any]) -> str:
    """TensorFlow in a few lines."""
    build = "without CUDA"
    if machine["built_with_cuda"]:
        build = f"for CUDA {machine['cuda']}, cuDNN {machine['cudnn']}"
    gpus = [
        f"{gpu['name']}, compute capability "
        + ".".join(map(str, gpu["compute_capability"] or ("unknown",)))
        for gpu in machine["gpus"]
    ]
    return "\n".join(
        [
            f"TensorFlow  {machine['tensorflow']} {build}; Keras {machine['keras']}",
            f"GPUs        {'; '.join(gpus) or 'none'}",
        ]
    )


_WIDTHS = (34, 9, 9, 9, 9)
HEADER = "\n" + "".join(
    cell.ljust(width) if not number else cell.rjust(width)
    for number, (cell, width) in enumerate(
        zip(("", "result", "all s", "step s", "MiB"), _WIDTHS, strict=True)
    )
)


def row(trial: Mapping[str, Any]) -> str:
    """One line of the table."""
    cells = [trial["title"].ljust(_WIDTHS[0]), trial["result"].rjust(_WIDTHS[1])]
    if "why" in trial:
        return f"{''.join(cells)}  {trial['why']}"
    for key, form, width in (
        ("total_seconds", "{:.1f}", _WIDTHS[2]),
        ("seconds", "{:.2f}", _WIDTHS[3]),
        ("memory_mib", "{}", _WIDTHS[4]),
    ):
        cells.append(form.format(trial[key]).rjust(width))
    return "".join(cells)
