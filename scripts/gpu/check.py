"""Check and time everything on one GPU, part after part, in bounded time.

    scripts/gpu_check.sh --out results      build, operators, sanitizer, training, benchmarks
    scripts/gpu_check.sh --only training    one part (build comes first where nothing is built yet)
    scripts/gpu_check.sh --rehearse         the same on the CPU, with small sizes

A part is a program of its own, scripts/gpu/PART.py. One that fails, crashes or hangs is stopped and recorded,
and the next one runs. The results, gpu_check.json and gpu_check.md, are written whenever there are new ones,
and each part has a log. The exit status is 0 if all parts are right, 1 if not, 2 if no result can be written.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType

from bounded import Ended, adopt_orphans, run_bounded
from report import Part, Report, row_line
from surroundings import BUNDLE, ROOT, device, environment, install_wheels, machine, versions

HERE = Path(__file__).resolve().parent
#: Seconds that each step gets on a machine with 16 cores, in order; the parts, and what precedes them.
SHARES = {"set-up": 25, "build": 55, "operators": 75, "sanitizer": 45, "training": 90, "benchmarks": 60}
PARTS = list(SHARES)[1:]
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
REHEARSAL_SECONDS = 1800.0  # on two cores


class Stopped(SystemExit):
    """A signal asked this program to end."""


class Schedule:
    """When each step must have ended.

    What a step leaves of its time, later ones have; what it takes too long, it is not given.
    """

    def __init__(self, seconds: float, steps: list[str]) -> None:
        self.started = time.monotonic()
        whole = sum(SHARES[step] for step in steps)
        ends = [sum(SHARES[step] for step in steps[: i + 1]) for i in range(len(steps))]
        self._ends = {
            step: self.started + seconds * end / whole for step, end in zip(steps, ends, strict=True)
        }

    def left(self, step: str) -> float:
        """Seconds from now to the end of a step."""
        return max(1.0, self._ends[step] - time.monotonic())

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started


def main() -> int:
    args = arguments()
    for number in SIGNALS:
        signal.signal(number, stop)
    adopt_orphans()
    wanted = [part for part in PARTS if part in (args.only or PARTS)]
    first = ["build"] if "build" not in wanted and not operators_in_place() else []
    steps = ["set-up", *first, *wanted]
    schedule = Schedule(seconds_for(args, steps), steps)

    parts = [Part(name) for name in PARTS]
    report = Report(args.out, {"command": command_line()}, parts)
    for part in parts:
        if part.name not in steps:
            part.state, part.reason = "not run", "not asked for"
    report.facts |= {"started": datetime.now(timezone.utc).isoformat(timespec="seconds"), "ended": None}
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        for name in PARTS:
            (args.out / f"{name}.log").unlink(missing_ok=True)
        report.write()
    except OSError as error:
        print(f"error: cannot write to {args.out} (--out): {error}", file=sys.stderr)
        return 2
    try:
        with tempfile.TemporaryDirectory(prefix="gpu_check_") as scratch:
            run_all(report, schedule, Path(scratch), rehearse=args.rehearse)
    except Stopped as signalled:
        report.facts["ended"] = f"stopped by {signalled.code} after {schedule.elapsed:.1f} s"
    else:
        report.facts["ended"] = f"after {schedule.elapsed:.1f} s"
    finally:
        report.write()
    say(f"{report.verdict()}; {report.facts['ended']}; all of it: {args.out / 'gpu_check.md'}", schedule)
    return 0 if all(part.state == "ok" for part in parts if part.name in steps) else 1


def run_all(report: Report, schedule: Schedule, scratch: Path, *, rehearse: bool) -> None:
    """Sets up, then runs the parts that wait."""
    site = scratch / "site"
    env = environment(scratch, site, BUNDLE)
    report.facts["machine"] = machine()
    report.facts["bundle"] = install_wheels(BUNDLE, site, schedule.left("set-up") * 0.6)
    say(report.facts["bundle"], schedule)
    report.facts["versions"] = versions(site)
    report.facts["device"] = device(env, schedule.left("set-up"))
    report.write()
    for part in report.parts:
        if part.state != "waiting":
            continue
        if not rehearse and part.name != "build" and not report.facts["device"]["available"]:
            part.state, part.reason = "not run", "torch sees no CUDA device; --rehearse runs it on the CPU"
        else:
            run_part(part, report, schedule, scratch, env, rehearse=rehearse)
        say(part.line(), schedule)
        for word, rows in (("wrong", part.failures), ("not checked", part.missed)):
            for row in rows:
                print(f"    {word}: {row_line(row)}", flush=True)
        report.write()


def run_part(
    part: Part, report: Report, schedule: Schedule, scratch: Path, env: dict[str, str], *, rehearse: bool
) -> None:
    """Runs one part within its time and records how it went."""
    results = scratch / f"{part.name}.json"
    mode = ["--device", "cpu", "--rehearse"] if rehearse else ["--device", "cuda"]
    command = [sys.executable, str(HERE / f"{part.name}.py"), *mode, "--json", str(results)]
    part.state, part.bound = "running", schedule.left(part.name)
    say(f"{part.name}: running, at most {part.bound:.0f} s", schedule)
    report.write()
    started, seen = time.monotonic(), None

    def collect() -> None:
        nonlocal seen
        try:
            written = results.stat().st_mtime_ns
            if written != seen and isinstance(found := json.loads(results.read_text()), dict):
                part.found, seen = found, written
                report.write()
        except (OSError, ValueError):
            pass  # not written yet; a file that is never right leaves no rows, which counts as a crash

    try:
        ended = run_bounded(
            command,
            seconds=part.bound,
            log=report.out / f"{part.name}.log",
            env=env | {"GPU_CHECK_SECONDS": f"{part.bound:.0f}"},
            cwd=ROOT,
            meanwhile=collect,
        )
    except Stopped as signalled:
        part.state, part.reason = "crashed", f"the check was stopped by {signalled.code}"
        raise
    finally:
        part.seconds = time.monotonic() - started
    part.state, part.reason = outcome(ended, part)


def outcome(ended: Ended, part: Part) -> tuple[str, str]:
    """State and reason of a part that has ended; exit status and rows must agree."""
    log = f"see {part.name}.log"
    if ended.status is None:
        return "timed out", f"stopped after {ended.seconds:.0f} s, {log}"
    if ended.status < 0:
        return "crashed", f"by {signal.Signals(-ended.status).name}, {log}"
    if not part.rows:
        return "crashed", f"exit status {ended.status} and no rows, {log}"
    if part.failures:
        return "failed", ""
    if part.missed:
        return "incomplete", ""
    return ("ok", "") if ended.status == 0 else ("crashed", f"exit status {ended.status}, {log}")


def operators_in_place() -> bool:
    """Whether this checkout has its operators built."""
    return all((ROOT / "backbones" / "ops" / f"{name}.abi3.so").exists() for name in ("_C", "_C_cuda"))


def seconds_for(args: argparse.Namespace, steps: list[str]) -> float:
    """How long these steps may take together."""
    share = float(sum(SHARES[step] for step in steps))
    whole = share * REHEARSAL_SECONDS / sum(SHARES.values()) if args.rehearse else share
    return args.seconds or whole


def say(sentence: str, schedule: Schedule) -> None:
    """Prints a line that starts with the time."""
    print(f"[{schedule.elapsed:6.1f} s] {sentence}", flush=True)


def stop(number: int, frame: FrameType | None) -> None:
    """What a signal does: the part that runs is killed, and the results are written."""
    for further in SIGNALS:
        signal.signal(further, signal.SIG_IGN)  # it ends already
    raise Stopped(signal.Signals(number).name)


def command_line() -> str:
    """The command that started this program."""
    return shlex.join(["scripts/gpu_check.sh", *sys.argv[1:]])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/gpu_check.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "runs" / "gpu_check", metavar="DIR", help="where the results go"
    )
    parser.add_argument("--only", action="append", choices=PARTS, help="this part alone; may be repeated")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with small sizes")
    parser.add_argument("--seconds", type=float, help="time for all of it (350; a rehearsal takes longer)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
