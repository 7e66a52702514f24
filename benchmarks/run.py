"""The benchmarks: one of them, all of them, or a list.

    python benchmarks/run.py                     # names, and what each measures
    python benchmarks/run.py NAME [ARGUMENTS]    # NAME --help tells its arguments
    python benchmarks/run.py all [--quick]       # one by one; --quick: cut down, to see that they run

On a machine that does other things, too, ratios within a run are the result, not seconds.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
SHARED = {"measure", "peers", "record", "run"}

#: What "all" runs, about twenty minutes on two free cores; the others are reached by name alone.
ALL: dict[str, str] = {
    "inference": "--rounds 3 --forwards 1",
    "training_step": "--rounds 2",
    "ops": "--threads 1 2 --types float32 --rounds 3",
    "heads": "--rounds 3",
    "tresnet_memory": "--rounds 3",
    "startup": "--rounds 3",
    "allocator": "--rounds 3 --size 480 800 --forwards 1",
    "activation_checkpointing": "--repeat 3",
    "build_time": "--repeat 5",
    "data_loading": "--images 4 --batches 2 --rounds 3",
    "evaluation": "--images 200 --rounds 2",
    "annotations": "",
}
#: The same, cut down.
QUICK: dict[str, str] = {
    "inference": "--size 64 64 --rounds 1 --forwards 1",
    "training_step": "--size 64 64 --rounds 1",
    "ops": "--quick --threads 1 --types float32 --rounds 2",
    "heads": "--quick --threads 1 --rounds 2",
    "tresnet_memory": "--size 64 --batch 2 --step-batch 2 --rounds 2",
    "startup": "--rounds 1",
    "allocator": "--rounds 1 --size 64 64 --forwards 1",
    "activation_checkpointing": "R-18-FPN --size 64 --repeat 1",
    "build_time": "R-18-FPN --repeat 2",
    "data_loading": "--images 1 --batches 1 --rounds 2 --size 48 64",
    "evaluation": "--images 2 --rounds 2",
    "annotations": "--images 20",
}
SAVING = {"inference", "training_step", "ops", "tresnet_memory"}  # with an --output folder


def names() -> dict[str, str]:
    """Every benchmark, and the first line of what it says of itself."""
    files = sorted(path for path in FOLDER.glob("*.py") if path.stem not in SHARED)
    docs = {path.stem: ast.get_docstring(ast.parse(path.read_text())) or "" for path in files}
    return {name: doc.partition("\n")[0] for name, doc in docs.items()}


def run(name: str, arguments: Sequence[str]) -> int:
    """The exit status of a benchmark, run in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parent)}
    command = [sys.executable, str(FOLDER / f"{name}.py"), *arguments]
    return subprocess.run(command, cwd=FOLDER.parent, env=environment).returncode


def run_all(quick: bool) -> int:
    """How many benchmarks failed. Results of ``quick`` runs are not kept."""
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments in (QUICK if quick else ALL).items():
            print(f"== {name}: {names()[name]}", flush=True)
            output = ["--output", folder] if quick and name in SAVING else []
            if run(name, [*arguments.split(), *output]):
                failed.append(name)
    if failed:
        print(f"error: failed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


def main(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(__doc__)
        for name, what in names().items():
            print(f"  {name:26}{what}")
        return 0
    if words[0] == "all" and set(words[1:]) <= {"--quick"}:
        return 1 if run_all("--quick" in words) else 0
    if words[0] not in names():
        print(f"error: no benchmark {words[0]!r}; use all, {', '.join(names())}", file=sys.stderr)
        return 2
    return run(words[0], words[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
