"""Compare this package with golden cases of the authors' implementation.

    python benchmarks/parity.py
    python benchmarks/parity.py --cases DIR
    python benchmarks/parity.py --spiece flan-t5-xl/spiece.model

Checks every case of a folder: networks (outputs, results of inner parts, weights written back),
losses, sampling steps, samplers alone, schedules, optimizer steps and checkpoints. Token ids are
checked only with T5's vocabulary (--spiece or KERAS_MDM_SPIECE), which no package holds. Prints a
table and ends with exit code 1 if anything differs by more than its limit.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import itertools
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from golden_cases import checkpoint, losses, networks, sampling, schedule_tables, tokens, training
from golden_cases.case import Case, Check
from tqdm import tqdm

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"


def check_network(case: Case) -> Iterator[Check]:
    """A network's forward pass, losses and trajectories."""
    yield from networks.check(case)
    yield from losses.check(case)
    yield from sampling.check(case)


CHECKS: dict[str, Callable[[Case], Iterator[Check]]] = {
    "unet": check_network,
    "nested": check_network,
    "sampler": sampling.check_alone,
    "schedule": schedule_tables.check,
    "train": training.check,
    "checkpoint": checkpoint.check,
}


def names(folder: Path) -> list[str]:
    """The cases of a folder: JSON files with a kind."""
    return sorted(path.stem for path in folder.glob("*.json") if '"kind"' in path.read_text()[:500])


def run(case: Case, spiece: Path | None = None) -> list[Check]:
    """All comparisons of a case. An error in one counts as a failure; the others are still made.

    Args:
        case: the case.
        spiece: T5's vocabulary; without it, cases of token ids have no comparisons.
    """
    found = []
    if case.kind == "tokens":
        return list(tokens.check(case, spiece)) if spiece else []
    if case.kind not in CHECKS:
        return [Check("unknown kind", case.kind, math.inf, 0.0)]
    try:
        with warnings.catch_warnings():
            # Options left out of training have no effect here, or are applied by hand.
            warnings.filterwarnings("ignore", message=".*(dropout|freeze_inner_unet)")
            for check in CHECKS[case.kind](case):
                found.append(check)
    except Exception as problem:
        message = " ".join(f"{type(problem).__name__}: {problem}".split())
        found.append(Check("stopped", message[:300], math.inf, 0.0))
    return found


def rows(name: str, found: list[Check]) -> Iterator[tuple[str, list[str]]]:
    """One row per kind of comparison, with a line about each that failed."""
    for kind, group in itertools.groupby(sorted(found, key=_kind), key=_kind):
        group = list(group)
        failed = [check for check in group if not check.passed]
        worst = max(group, key=lambda check: (check.share, check.limit))
        cells = (name, kind, len(group), f"{worst.error:.1e}", f"{worst.limit:.0e}")
        row = " | ".join(map(str, (*cells, "FAILED" if failed else "ok")))
        yield f"| {row} |", [f"  {check.name}: {check.error:.2e}" for check in failed]


def _kind(check: Check) -> str:
    return check.kind


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=Path, default=GOLDEN, help="folder of golden cases")
    parser.add_argument("--only", nargs="+", help="names of cases")
    parser.add_argument("--spiece", type=Path, help="T5's vocabulary, to check token ids")
    args = parser.parse_args()
    if not args.cases.is_dir():
        parser.error(f"--cases must be a folder; got {args.cases}")
    wanted = args.only or names(args.cases)
    absent = [name for name in wanted if not (args.cases / f"{name}.json").is_file()]
    if absent or not wanted:
        parser.error(f"{args.cases} must hold golden cases (<name>.json); missing: {absent}")
    spiece = args.spiece or os.environ.get("KERAS_MDM_SPIECE")
    if spiece and not Path(spiece).is_file():
        parser.error(f"--spiece must be a file; got {spiece}")
    print("| case | what | compared | largest error | limit | result |")
    print("|---|---|---|---|---|---|")
    total, bad = 0, 0
    for name in tqdm(wanted, unit="case", disable=not sys.stderr.isatty()):
        found = run(Case(args.cases, name), Path(spiece) if spiece else None)
        if not found:
            tqdm.write(f"| {name} | token ids | 0 | | | not checked: needs --spiece |")
        total += len(found)
        bad += sum(not check.passed for check in found)
        for row, failures in rows(name, found):
            tqdm.write("\n".join([row, *failures]))
    print(f"{total} comparisons, {bad} failed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
