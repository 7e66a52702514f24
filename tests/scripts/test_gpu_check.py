"""The GPU check, with stand-ins for its parts: one that fails, crashes or hangs does not cost the others."""

import os
import re
import signal
import time
import zipfile
from pathlib import Path

import pytest

OK = dict.fromkeys(["build", "operators", "sanitizer", "training", "benchmarks"], "ok")
WAIT = "time.sleep(600)"


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def write_wheel(folder: Path, package: str, tag: str) -> None:
    """A wheel with one module whose ANSWER is 42."""
    folder.mkdir(parents=True, exist_ok=True)
    about = f"{package}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{package}-1.0-{tag}.whl", "w") as wheel:
        wheel.writestr(f"{package}.py", "ANSWER = 42\n")
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        wheel.writestr(f"{about}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        wheel.writestr(f"{about}/RECORD", "")


def test_all_parts_run_in_order_and_leave_flat_files(tree):
    tree.part("training", "rows.add('device', args.device == 'cuda' and not args.rehearse, args.device)")
    status, output = tree.run()
    assert status == 0, output
    assert tree.states() == OK and list(tree.states()) == list(OK)
    assert tree.page.startswith("# GPU check: all right\n") and "Fake" in tree.page
    names = [path.name for path in tree.out.iterdir()]
    assert sorted(names) == sorted(["gpu_check.json", "gpu_check.md", *(f"{name}.log" for name in OK)])
    assert len(names) <= 8 and all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in names)


def test_a_part_that_fails_or_crashes_does_not_keep_the_others_from_running(tree):
    tree.part("build", "rows.add('far off', False, float('nan'), 'm', 'two | lines\\nof detail')")
    tree.part("operators", "rows.add('one', True); os.abort()")
    tree.part("sanitizer", "raise ValueError('before any row')")
    tree.part("training", f"{'rows.add(1, True)'}; sys.exit(3)")
    status, output = tree.run()
    assert status == 1
    assert tree.states() == OK | {
        "build": "failed",
        **dict.fromkeys(["operators", "sanitizer", "training"], "crashed"),
    }
    assert "wrong: far off: nan m: two | lines" in output
    assert "| **wrong** | far off | nan m | two \\| lines |" in tree.page and "of detail" in tree.page
    assert "by SIGABRT" in tree.page and "before any row" in tree.page and "exit status 3" in tree.page


def test_what_was_not_checked_is_no_success(tree):
    tree.part(
        "training",
        "rows.add('one', True); rows.miss('two', 'no tool for it'); rows.add('three', None, [None])",
    )
    status, output = tree.run("--only", "training")
    assert status == 1 and tree.states()["training"] == "incomplete"
    assert "1 right, 0 wrong, 1 not checked" in output and "not checked: two: no tool for it" in output
    assert "## Not checked" in tree.page and "|  | three |  |  |" in tree.page


def test_a_part_that_hangs_is_killed_with_all_that_it_started(tree):
    tree.operators()
    program = f"import time; print('hung in here', flush=True); {WAIT}"
    tree.part(
        "training",
        f"""
child = subprocess.Popen([sys.executable, "-c", {program!r}], start_new_session=True)
rows.add("before", True, child.pid)
def the_place_where_it_hangs(): {WAIT}
the_place_where_it_hangs()""",
    )
    started = time.monotonic()
    status, output = tree.run("--only", "training", "--only", "benchmarks", "--seconds", "10")
    assert status == 1 and time.monotonic() - started < 20
    states = tree.states()
    assert (states["training"], states["benchmarks"]) == ("timed out", "ok"), output
    (row,) = tree.results["parts"]["training"]["rows"]
    assert row["name"] == "before" and not is_alive(row["value"])
    log = (tree.out / "training.log").read_text()
    assert "hung in here" in log and "in the_place_where_it_hangs" in log


def test_what_a_part_leaves_running_ends_with_it(tree):
    tree.part(
        "operators",
        f"""
child = subprocess.Popen([sys.executable, "-c", "import time; {WAIT}"], start_new_session=True)
rows.add("left", True, child.pid)""",
    )
    assert tree.run()[0] == 0
    assert not is_alive(tree.results["parts"]["operators"]["rows"][0]["value"])


def test_results_are_there_after_every_part_and_every_row(tree):
    tree.part(
        "operators",
        f"""
results = pathlib.Path({str(tree.out / "gpu_check.json")!r})
parts = lambda: json.loads(results.read_text())["parts"]
rows.add("the part before", parts()["build"]["state"] == "ok")
deadline = time.monotonic() + 10
while not parts()["operators"]["rows"] and time.monotonic() < deadline: time.sleep(0.05)
rows.add("the row before", len(parts()["operators"]["rows"]) == 1)""",
    )
    status, output = tree.run()
    assert status == 0, output


def test_a_signal_ends_the_part_and_the_results_are_written(tree):
    tree.part("operators", f"rows.add('pid', True, os.getpid()); {WAIT}")
    with tree.start() as process:
        deadline = time.monotonic() + 30
        while not re.search(
            r'"pid",\s+"ok"', (tree.out / "gpu_check.json").read_text() if tree.out.exists() else ""
        ):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 1
    assert tree.states() == OK | {"operators": "crashed", **dict.fromkeys(list(OK)[2:], "waiting")}
    assert "stopped by SIGTERM" in tree.page
    assert not is_alive(tree.results["parts"]["operators"]["rows"][0]["value"])


def test_only_runs_what_it_names_and_builds_where_nothing_is_built(tree):
    assert tree.run("--only", "sanitizer")[0] == 0
    assert tree.states() == dict.fromkeys(OK, "not run") | {"build": "ok", "sanitizer": "ok"}
    tree.operators()
    assert tree.run("--only", "sanitizer")[0] == 0
    assert tree.states() == dict.fromkeys(OK, "not run") | {"sanitizer": "ok"}
    assert not (tree.out / "build.log").exists(), "left from the run before"


def test_without_a_device_the_parts_that_need_one_say_so_and_rehearse_needs_none(tree):
    tree.torch(available=False)
    assert tree.run()[0] == 1
    assert tree.states() == dict.fromkeys(OK, "not run") | {"build": "ok"}
    assert "--rehearse" in tree.page
    tree.part("training", "rows.add('device', args.device == 'cpu' and args.rehearse, args.device)")
    assert tree.run("--rehearse")[0] == 0 and tree.states() == OK


def test_packages_come_from_the_bundle_and_one_that_does_not_fit_keeps_none_out(tree):
    tree.part("training", "import probe_one; rows.add('installed', probe_one.ANSWER == 42)")
    status, output = tree.run("--only", "training")
    assert status == 1 and tree.states()["training"] == "crashed"
    assert "no bundle in gpu_bundle/ (scripts/gpu_bundle.sh makes it)" in output.splitlines()[0]
    write_wheel(tree.root / "gpu_bundle" / "wheels", "probe_one", "py3-none-any")
    write_wheel(tree.root / "gpu_bundle" / "wheels", "probe_two", "cp38-cp38-win32")
    write_wheel(tree.root / "gpu_bundle" / "wheels", "pytest", "py3-none-any")
    status, output = tree.run("--only", "training")
    assert status == 0, output
    line = output.splitlines()[0]
    assert "installed from gpu_bundle/: probe-one" in line and "pytest" not in line
    assert "probe_two" in line.partition("failed: ")[2]


def test_a_part_finds_the_data_of_the_bundle_and_a_folder_to_write_to(tree):
    (tree.root / "gpu_bundle" / "datasets").mkdir(parents=True)
    tree.part(
        "training",
        """
rows.add("data", True, os.environ["CONVBODY_DATASETS"])
import tempfile
rows.add("scratch", True, tempfile.mkdtemp())
rows.add("seconds", float(os.environ["GPU_CHECK_SECONDS"]) > 1)""",
    )
    assert tree.run("--only", "training")[0] == 0
    data, scratch, _ = (row["value"] for row in tree.results["parts"]["training"]["rows"])
    assert data == str(tree.root / "gpu_bundle" / "datasets")
    assert not os.path.exists(scratch), "left behind"


def test_a_long_log_loses_its_middle(tree):
    tree.operators()
    tree.part("training", "print('first'); print('x' * (20 << 20)); rows.add('printed', True); print('last')")
    assert tree.run("--only", "training")[0] == 0
    log = (tree.out / "training.log").read_bytes()
    assert len(log) < 16 << 20
    assert log.startswith(b"first") and log.endswith(b"last\n") and b"bytes left out" in log


@pytest.mark.parametrize("arguments", [["--only", "nothing"], ["--out", "/proc/none"]])
def test_what_cannot_be_done_is_said_at_once(tree, arguments):
    status, output = tree.run(*arguments)
    assert status == 2 and "error: " in output.splitlines()[-1]
