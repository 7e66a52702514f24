"""tools/predict.py and tools/test_net.py, run as programs on a tiny detector with random weights."""

from __future__ import annotations

import json
import logging
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from convbody.detection import build_detector
from convbody.detection.data import make_synthetic
from convbody.training.checkpoint import write_checkpoint
from registry import load_cfg

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs" / "synthetic" / "mask_rcnn.yaml")
SMALL = [
    "MODEL.RESNETS.STEM_OUT_CHANNELS", "8", "MODEL.RESNETS.RES2_OUT_CHANNELS", "8",
    "MODEL.RESNETS.BACKBONE_OUT_CHANNELS", "16", "INPUT.MIN_SIZE_TEST", "64",
]  # fmt: skip


def run_tool(name, *words):
    """Exit status of ``python tools/<name> <words>``, in this process."""
    arguments, sys.argv = sys.argv, [name, *map(str, words)]
    try:
        runpy.run_path(str(ROOT / "tools" / name), run_name="__main__")
    except SystemExit as end:
        return end.code
    finally:
        sys.argv = arguments
        for package in ("registry", "backbones", "convbody"):
            for handler in logging.getLogger(package).handlers[:]:  # they write to this test's stdout
                logging.getLogger(package).removeHandler(handler)
                handler.close()
    raise AssertionError("a tool ends by sys.exit")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A root with three test pictures, and a run whose checkpoint holds random weights."""
    root = tmp_path_factory.mktemp("root")
    make_synthetic(root / "synthetic" / "test", images=3, size=64, seed=1)
    torch.manual_seed(0)
    state = build_detector(load_cfg(CONFIG, SMALL)).state_dict()
    write_checkpoint({"model": state, "iteration": 7}, root / "run" / "checkpoints" / "best.pth")
    return root


@pytest.fixture
def arguments(made, monkeypatch):
    """What every call needs: the config, and the run with the weights."""
    monkeypatch.setenv("CONVBODY_DATASETS", str(made))
    monkeypatch.chdir(ROOT)
    return ["--config-file", CONFIG, *SMALL, "OUTPUT_DIR", str(made / "run")]


def predict(arguments, images, *options):
    config, opts = arguments[:2], arguments[2:]
    return run_tool("predict.py", *config, *options, *images, *opts)


def test_a_folder_gives_a_drawing_and_a_json_for_each_image(made, arguments, tmp_path):
    images = made / "synthetic" / "test" / "images"
    assert predict(arguments, [images], "--output", tmp_path, "--score", 0.0) == 0
    assert len(list(tmp_path.glob("*_detections.jpg"))) == 3
    answer = json.loads((tmp_path / "000002_detections.json").read_text())
    assert answer["file"] == str(images / "000002.png")
    assert (answer["width"], answer["height"]) == (64, 64)
    first = answer["detections"][0]
    assert first["class"] in ("circle", "square", "triangle")
    assert len(first["box"]) == 4
    assert first["segmentation"]["size"] == [64, 64]
    scores = [detection["score"] for detection in answer["detections"]]
    assert scores == sorted(scores, reverse=True)


def test_the_score_decides_what_is_shown(made, arguments, tmp_path):
    images = [made / "synthetic" / "test" / "images" / "000001.png"]
    assert predict(arguments, images, "--output", tmp_path, "--score", 1.0) == 0
    assert json.loads((tmp_path / "000001_detections.json").read_text())["detections"] == []
    assert Image.open(tmp_path / "000001_detections.jpg").size == (400, 400)  # enlarged to be readable


def test_a_corrupt_image_is_named_and_the_others_are_done(made, arguments, tmp_path, capsys):
    folder = tmp_path / "images"
    shutil.copytree(made / "synthetic" / "test" / "images", folder)
    (folder / "000002.png").write_bytes((folder / "000002.png").read_bytes()[:100])
    assert predict(arguments, [folder / "*.png"], "--output", tmp_path / "out") == 1
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "cannot read image" in error
    assert "000002.png" in error
    assert sorted(path.name for path in (tmp_path / "out").glob("*.jpg")) == [
        "000001_detections.jpg",
        "000003_detections.jpg",
    ]


def test_json_is_all_there_is_on_stdout(made, arguments, tmp_path, capsys):
    assert predict(arguments, [made / "synthetic" / "test" / "images"], "--output", tmp_path, "--json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [Path(json.loads(line)["file"]).stem for line in lines] == ["000001", "000002", "000003"]


def test_images_of_one_name_do_not_overwrite_each_other(made, arguments, tmp_path):
    images = made / "synthetic" / "test" / "images"
    shutil.copytree(images, tmp_path / "other")
    words = [images / "000001.png", tmp_path / "other" / "000001.png"]
    assert predict(arguments, words, "--output", tmp_path / "out") == 0
    assert len(list((tmp_path / "out").glob("*.jpg"))) == 2


@pytest.mark.parametrize("name", ["backbone.body.stem.conv1.weight", "backbone.body.stem.bn1.running_var"])
def test_diverged_weights_are_named(made, arguments, tmp_path, capsys, name):
    payload = torch.load(made / "run" / "checkpoints" / "best.pth")
    payload["model"][name].flatten()[-1] = torch.nan
    write_checkpoint(payload, tmp_path / "run" / "checkpoints" / "best.pth")
    diverged = [*arguments[:-1], str(tmp_path / "run")]
    assert predict(diverged, [made / "synthetic" / "test" / "images"], "--output", tmp_path) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert f"the weights have diverged: {name} holds NaN" in line


def test_weights_may_be_named(made, arguments, tmp_path):
    weights = tmp_path / "weights.pth"
    shutil.copy(made / "run" / "checkpoints" / "best.pth", weights)
    images = [made / "synthetic" / "test" / "images" / "000001.png"]
    elsewhere = [*arguments[:-1], str(tmp_path / "no run")]
    out = ["--output", tmp_path, "--score", 0.0]
    assert predict(elsewhere, images, *out, "--weights", weights) == 0
    named = (tmp_path / "000001_detections.json").read_text()
    assert predict(arguments, images, *out) == 0
    assert (tmp_path / "000001_detections.json").read_text() == named


@pytest.mark.parametrize(
    ("images", "changes", "message"),
    [
        (["no/such.jpg"], [], "no/such.jpg: no such image"),
        ([], [], "no image given"),
        (["README.md"], ["OUTPUT_DIR", "no run"], "no checkpoint in no run/checkpoints"),
        (["README.md"], ["MODEL.RESNETS.STEM_OUT_CHANNELS", "16"], "is of another model"),
        (["README.md"], ["MODEL.RESNET.DEPTH", "16"], "MODEL.RESNET"),
    ],
)
def test_mistakes_are_one_line_and_exit_status_2(arguments, capsys, images, changes, message):
    assert predict([*arguments, *changes], images) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert message in printed
    assert printed.count("\n") == 1


def test_file_names_of_any_kind_are_read_and_written(made, arguments, tmp_path, capsys):
    folder, picture = tmp_path / "images", made / "synthetic" / "test" / "images" / "000001.png"
    folder.mkdir()
    names = [os.fsdecode(b"caf\xe9.png"), "two\nlines.png", "-dash.png", "a" * 251 + ".png", "猫.PNG"]
    for name in names:
        shutil.copy(picture, folder / name)
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "gone.png").symlink_to("nowhere")
    assert predict(arguments, [folder], "--output", tmp_path / "out", "--score", 0.0) == 1
    printed = capsys.readouterr()
    assert "gone.png: no such file" in printed.err and "folder.png" not in printed.err + printed.out
    lines = printed.out.splitlines()
    assert len(lines) == 5 and all("_detections.jpg" in line for line in lines)
    assert any("two\\nlines" in line for line in lines) and any(r"caf\udce9.png" in line for line in lines)
    files = {json.loads(path.read_bytes())["file"] for path in (tmp_path / "out").glob("*.json")}
    assert {Path(file).name for file in files} == {r"caf\xe9.png", *names[1:]}


def test_a_word_that_no_file_system_takes_is_one_line(arguments, capsys):
    assert predict(arguments, ["a" * 5000]) == 2
    assert capsys.readouterr().err.endswith("aa: no such image\n")


@pytest.mark.slow
def test_a_photograph_with_a_hundred_masks_fits_into_two_gigabytes(made, arguments, tmp_path):
    Image.effect_noise((4000, 3000), 60).convert("RGB").save(tmp_path / "photo.jpg")
    words = [str(ROOT / "tools" / "predict.py"), str(tmp_path / "photo.jpg"), "--score", "0"]
    options = ["--output", str(tmp_path), *arguments, "MODEL.ROI_HEADS.SCORE_THRESH", "0.0"]
    code = (
        f"import resource, subprocess, sys; subprocess.run({[sys.executable, *words, *options]}, check=True);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = json.loads((tmp_path / "photo_detections.json").read_text())["detections"]
    assert len(found) == 100 and all(entry["segmentation"]["size"] == [3000, 4000] for entry in found)
    assert int(done.stdout.split()[-1]) < 2_000_000  # KiB


def test_weights_of_another_detector_are_refused(made, arguments, tmp_path, capsys):
    torch.save({"model": {"backbone.body.stem.conv1.weight": torch.zeros(1)}}, tmp_path / "weights.pth")
    image = made / "synthetic" / "test" / "images" / "000001.png"
    assert predict(arguments, [image], "--weights", tmp_path / "weights.pth") == 2
    assert "weights.pth" in capsys.readouterr().err


@pytest.mark.parametrize("tool", ["test_net.py", "predict.py", "train_net.py --eval-only"])
def test_model_weight_on_the_command_line_counts(made, arguments, tmp_path, capsys, tool):
    """Beside a run with a checkpoint; a file of the body alone, and one that is missing, are errors."""
    tool, *words = tool.split()
    if tool == "predict.py":
        words = ["--output", tmp_path, made / "synthetic" / "test" / "images" / "000001.png"]
    state = torch.load(made / "run" / "checkpoints" / "best.pth", weights_only=True)["model"]
    torch.save(state, tmp_path / "whole.pth")
    torch.save({k: v for k, v in state.items() if k.startswith("backbone.body.")}, tmp_path / "body.pth")
    for file, status, message in (
        ("whole.pth", 0, f"weights of {tmp_path}/whole.pth"),
        ("body.pth", 2, f"error: {tmp_path}/body.pth does not hold all weights of this model"),
        ("absent.pth", 2, f"error: no such weight file: {tmp_path}/absent.pth"),
    ):
        found = run_tool(tool, *words, *arguments, "MODEL.WEIGHT", tmp_path / file)
        printed = capsys.readouterr()
        assert (found, message in printed.out + printed.err) == (status, True), printed


def test_test_net_prints_the_table_and_writes_the_results(made, arguments, capsys):
    assert run_tool("test_net.py", *arguments) == 0
    assert "synthetic_test: 3 images" in capsys.readouterr().out
    folder = made / "run" / "evaluation" / "synthetic_test"
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    assert {"bbox/AP", "bbox/AP50", "segm/AP"} <= metrics.keys()
    assert isinstance(json.loads((folder / "predictions.json").read_text()), list)


def test_test_net_without_a_run_says_so(arguments, tmp_path, capsys):
    assert run_tool("test_net.py", *arguments[:-1], tmp_path) == 2
    assert f"no checkpoint in {tmp_path}/checkpoints" in capsys.readouterr().err
