from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from convbody.cli import common_parser, load_config, parse, run, split_opts
from registry import ConfigError, ConvbodyError

ROOT = Path(__file__).resolve().parents[2]


def parsed(*words):
    parser = common_parser("what it does")
    parser.add_argument("--resume", action="store_true")
    return parse(parser, words)


def test_options_may_stand_anywhere_among_the_pairs():
    args = parsed("SEED", "3", "--resume", "SOLVER.BASE_LR", "-0.5", "--plugin", "a", "--plugin", "b.py")
    assert args.opts == ["SEED", "3", "SOLVER.BASE_LR", "-0.5"]
    assert args.resume
    assert args.plugin == ["a", "b.py"]


def test_after_two_dashes_words_are_no_options():
    args = parsed("--resume", "SEED", "3", "--", "-a.jpg", "--resume", "-1e-3")
    assert args.opts == ["SEED", "3", "-a.jpg", "--resume", "-1e-3"] and args.resume


def test_the_config_is_the_file_with_the_pairs_over_it(tmp_path):
    (tmp_path / "a.yaml").write_text("SEED: 5\nSOLVER: {MAX_ITER: 9}\n")
    cfg = load_config(parsed("--config-file", str(tmp_path / "a.yaml"), "SEED", "7"))
    assert (cfg.SEED, cfg.SOLVER.MAX_ITER) == (7, 9)


def test_plugins_are_loaded_first(tmp_path):
    plugin = tmp_path / "my_plugin.py"
    plugin.write_text("from registry import BODIES\nBODIES.register('CliBody', lambda cfg: None)\n")
    cfg = load_config(parsed("--plugin", str(plugin), "MODEL.BACKBONE.CONV_BODY", "CliBody-C4"))
    assert cfg.MODEL.BACKBONE.CONV_BODY == "CliBody-C4"


@pytest.mark.parametrize(
    ("words", "images"),
    [
        (["a.jpg", "SEED", "1"], 1),
        (["IMG_1.JPG", "B.PNG", "MODEL.WEIGHT", "x"], 2),
        (["MODEL.WEIGHT", "x"], 0),
        (["photos/*.jpg", "folder"], 2),
        ([], 0),
    ],
)
def test_images_end_where_the_config_keys_begin(words, images):
    assert split_opts(words) == (words[:images], words[images:])


def test_a_folder_in_capitals_is_not_a_config_key(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "DATA").mkdir()
    assert split_opts(["DATA", "SEED", "1"]) == (["DATA"], ["SEED", "1"])


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (1, 1)])
def test_the_exit_status_is_what_main_returns(returned, status):
    with pytest.raises(SystemExit) as end:
        run(lambda: returned)
    assert end.value.code == status


@pytest.mark.parametrize("error", [ConvbodyError("no such thing"), ConfigError("no such thing", key="A.B")])
def test_a_users_mistake_is_one_line(capsys, error):
    def main():
        raise error

    with pytest.raises(SystemExit) as end:
        run(main)
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: no such thing")


def test_other_errors_keep_their_traceback():
    def main():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(main)


def test_processes_started_by_torchrun_are_one_group(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "from convbody.cli import run\n"
        "def main():\n"
        "    from convbody.training.distributed import all_gather_object, rank\n"
        "    ranks = all_gather_object(rank())\n"
        f"    open(r'{tmp_path}/' + str(rank()), 'w').write(str(ranks))\n"
        "run(main)\n"
    )
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", program],
        check=True, timeout=120, capture_output=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert (tmp_path / "0").read_text() == (tmp_path / "1").read_text() == "[0, 1]"


@pytest.mark.slow
def test_of_two_processes_that_fail_alike_one_says_so_and_a_lost_one_is_one_line(tmp_path):
    """An error of the main process is its alone to print; where a process is killed, the other says that."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os, signal, sys\n"
        "from convbody.cli import run\n"
        "from registry import ConvbodyError\n"
        "def fail():\n"
        "    raise ConvbodyError('no such thing')\n"
        "def main():\n"
        "    from convbody.training import distributed\n"
        "    if sys.argv[1] == 'fail':\n"
        "        distributed.on_main(fail)\n"
        "    if distributed.is_main():\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    distributed.barrier()\n"
        "run(main)\n"
    )

    def lines(what):
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        done = subprocess.run(
            [*launcher, program, what], timeout=120, capture_output=True, cwd=ROOT, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode != 0
        assert f'File "{program}"' not in done.stderr, "no traceback of a process of the run"
        return [line for line in done.stderr.splitlines() if line.startswith("error: ")]

    assert lines("fail") == ["error: no such thing"]
    assert lines("die") == ["error: another process of this run has ended; its output says why"]
