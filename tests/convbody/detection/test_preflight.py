"""What can be known before the first iteration is found then, all of it, and no trace is left."""

import json
import logging
import re
from pathlib import Path

import pytest
import torch
from oracle_detector import EVERYTHING, OracleDetector, open_shapes, shapes_config
from oracle_detector import shapes as shapes
from ranks import run_ranks

from convbody.detection import preflight as module
from convbody.detection import rehearsal
from convbody.detection.data import find_dataset, make_synthetic
from convbody.detection.data.census import census
from convbody.detection.evaluation import evaluate
from convbody.detection.preflight import dry_run, measurable, preflight
from convbody.detection.train import train_detector
from convbody.training import distributed
from convbody.training.findings import PreflightError
from registry import Config, ConfigError, ConvbodyError, load_cfg

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "synthetic"
SMALL = {
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 8,
    "MODEL.RESNETS.BACKBONE_OUT_CHANNELS": 16,
    "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 32,
    "INPUT.MIN_SIZE_TRAIN": [64],
    "INPUT.MIN_SIZE_TEST": 64,
    "SOLVER.MAX_ITER": 3,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.TENSORBOARD": False,
    "SOLVER.KEEP_CHECKPOINTS": 0,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets")
    make_synthetic(folder / "synthetic" / "train", images=6, size=64, seed=0)
    make_synthetic(folder / "synthetic" / "test", images=3, size=64, seed=1)
    return folder


@pytest.fixture
def config(root, tmp_path, monkeypatch):
    """``config(name, {KEY: value})``: a shipped config, cut down to three iterations on tiny images."""
    monkeypatch.setenv("CONVBODY_DATASETS", str(root))

    def load(name="faster_rcnn", changes=None):
        options = SMALL | {"OUTPUT_DIR": str(tmp_path / "run")} | (changes or {})
        return load_cfg(CONFIGS / f"{name}.yaml", [part for pair in options.items() for part in pair])

    return load


def with_file(cfg, tmp_path, name, change):
    """The config with a copy of the data set's annotation file that ``change`` has written into."""
    entry = find_dataset(cfg, name)
    content = json.loads(entry.ann_file.read_text())
    change(content)
    file = tmp_path / f"{name}.json"
    file.write_text(json.dumps(content))
    cfg.DATASETS.CATALOG[name] = Config({"image_dir": str(entry.image_dir), "ann_file": str(file)})
    return cfg


@pytest.mark.parametrize("name", ["mask_rcnn", "keypoint_rcnn", "retinanet"])
def test_a_sound_config_has_no_findings_and_leaves_no_files(config, tmp_path, caplog, name):
    with caplog.at_level(logging.INFO):
        dry_run(config(name))
    assert not (tmp_path / "run").exists()
    assert "nothing was found" in caplog.text and "synthetic_test, bbox" not in caplog.text
    table = caplog.text[caplog.text.index("data set ") :].splitlines()
    assert [line.split()[:3] for line in table[1:3]] == [
        ["synthetic_train", "train", "6"],
        ["synthetic_test", "test", "3"],
    ]


def test_a_run_is_the_same_to_the_bit_with_and_without(config, tmp_path, monkeypatch):
    def weights(folder):
        return train_detector(config(changes={"OUTPUT_DIR": str(tmp_path / folder)})).model.state_dict()

    tried = weights("tried")
    with monkeypatch.context() as patch:
        for name in ("rehearse_evaluation", "rehearse_step", "rehearse_saving"):
            patch.setattr(module, name, lambda *args: None)
        plain = weights("plain")
    assert all(torch.equal(tried[name], plain[name]) for name in plain)


def test_all_findings_are_listed_before_anything_is_trained(config, tmp_path):
    (tmp_path / "file").write_text("")
    cfg = config(
        changes={
            "DTYPE": "half",
            "SOLVER.WARMUP_METHOD": "exp",
            "SOLVER.BEST_METRIC": "bbox/mAP",
            "TEST.EVALUATOR": "coco",
            "MODEL.ROI_BOX_HEAD.NUM_CLASSES": 81,
            "DATASETS.TEST": ("synthetic_test", "synthetic_tst"),
            "OUTPUT_DIR": str(tmp_path / "file" / "run"),
        }
    )
    with pytest.raises(PreflightError) as caught:
        dry_run(cfg)
    found = "\n".join(caught.value.details)
    for words in (
        "DTYPE = 'half'",
        "SOLVER.WARMUP_METHOD = 'exp'",
        "TEST.EVALUATOR = 'coco'",
        r"3 classes, circle, square, triangle, .* makes 4.*NUM_CLASSES = 81",
        "no data set is called 'synthetic_tst'; nearest: synthetic_test",
        "OUTPUT_DIR .* cannot be written",
    ):
        assert re.search(words, found), (words, found)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("faster_rcnn", {"SOLVER.BEST_METRIC": "bbox/APl"}, r"no such metric, but bbox/AP, .*BEST_METRIC"),
        ("faster_rcnn", {"SOLVER.BEST_METRIC": "segm/AP"}, r"no such metric, but bbox/AP, .*BEST_METRIC"),
        (
            "faster_rcnn",
            {"TEST.EXPECTED_RESULTS": [["synthetic_test", "box", "APl", 0.5, 0.1]]},
            "synthetic_test gives no bbox/APl, because it has no objects of that size",
        ),
        ("faster_rcnn", {"MODEL.BACKBONE.FREEZE_CONV_BODY_AT": 9}, "FREEZE_CONV_BODY_AT"),
        ("faster_rcnn", {"MODEL.WEIGHT": "nowhere.pth"}, "no such weight file: nowhere.pth"),
        ("faster_rcnn", {"SOLVER.STEPS": (3, 2), "SOLVER.SCHEDULE": "multistep"}, "SOLVER.STEPS"),
        ("keypoint_rcnn", {"MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES": 5}, "names 4 keypoints .*NUM_CLASSES = 5"),
        (
            "faster_rcnn",
            {
                "SOLVER.IMS_PER_BATCH": 1,
                "INPUT.MIN_SIZE_TRAIN": [64, 32],
                "INPUT.MAX_SIZE_TRAIN": 64,
                "DATALOADER.SIZE_DIVISIBILITY": 32,
            },
            r"one value per channel from the smallest images .*SOLVER.IMS_PER_BATCH",
        ),
    ],
)
def test_what_would_fail_later_is_found(config, name, changes, words):
    with pytest.raises(ConvbodyError, match=words):
        preflight(config(name, changes))


def test_the_test_set_is_compared_by_name(config, tmp_path):
    def rename(content):
        content["categories"][0]["name"] = "disc"

    words = "has the classes disc, square, triangle, and data set 'synthetic_train' circle, square, triangle"
    with pytest.raises(ConfigError, match=words):
        preflight(with_file(config(), tmp_path, "synthetic_test", rename))


def break_scoring(monkeypatch):
    def score(*args):
        raise RuntimeError("no such field")

    monkeypatch.setattr(rehearsal, "score_detections", score)


def break_report(monkeypatch):
    def write(*args):
        raise UnicodeEncodeError("ascii", "ł", 0, 1, "not here")

    monkeypatch.setattr(rehearsal, "write_report", write)


@pytest.mark.parametrize(
    ("break_it", "words"),
    [(break_scoring, "RuntimeError: no such field"), (break_report, "UnicodeEncodeError")],
)
def test_the_way_to_the_report_is_gone_before_the_training(config, tmp_path, monkeypatch, break_it, words):
    break_it(monkeypatch)
    with pytest.raises(ConvbodyError, match=rf"two images of 'synthetic_test' fails: {words}") as caught:
        train_detector(config())
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_detections_are_scored_and_drawn_though_an_untrained_detector_is_sure_of_nothing(config, monkeypatch):
    drawn = []
    original = rehearsal.write_report

    def write(folder, cfg, results, datasets):
        drawn.extend(results["synthetic_test"].predictions)
        return original(folder, cfg, results, datasets)

    monkeypatch.setattr(rehearsal, "write_report", write)
    run = preflight(config("mask_rcnn"))
    assert len(drawn) == 2 * 100 and all("segmentation" in each for each in drawn)
    assert run.model.roi_heads.score_thresh == 0.05 and run.model.training


def test_a_damaged_test_image_is_found_or_passed_over(config, tmp_path, monkeypatch):
    make_synthetic(tmp_path / "sets" / "synthetic" / "train", images=3, size=64, seed=0)
    make_synthetic(tmp_path / "sets" / "synthetic" / "test", images=3, size=64, seed=1)
    monkeypatch.setenv("CONVBODY_DATASETS", str(tmp_path / "sets"))
    image = sorted((tmp_path / "sets" / "synthetic" / "test" / "images").iterdir())[0]
    content = image.read_bytes()
    image.write_bytes(content[:200] + b"\0" * 100 + content[300:])
    monkeypatch.setenv("CONVBODY_DATASETS", str(tmp_path / "sets"))
    with pytest.raises(ConvbodyError, match=image.name):
        preflight(config())
    preflight(config(changes={"DATASETS.ON_ERROR": "skip"}))


@pytest.mark.parametrize("opts", [EVERYTHING, ["MODEL.RPN_ONLY", True]])
def test_the_metrics_of_an_evaluation_are_known_before_it(shapes, opts):
    cfg = shapes_config(shapes, *opts)
    dataset = open_shapes(shapes, cfg)
    result = evaluate(OracleDetector(dataset), dataset, cfg, "shapes")
    assert list(result.metrics) == measurable(cfg, census(dataset.records))


def test_counts_of_a_data_set(tmp_path):
    sides = {1: [10, 32, 33, 200], 2: [], 3: [96]}
    images = [{"id": key, "file_name": f"{key}.png", "width": 300 + key, "height": 300} for key in sides]
    objects = [
        {"id": 10 * key + place, "image_id": key, "category_id": 1, "bbox": [0, 0, side, side]}
        for key, found in sides.items()
        for place, side in enumerate(found)
    ]
    objects.append({**objects[0], "id": 99, "image_id": 2, "iscrowd": 1})
    file = tmp_path / "a.json"
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    file.write_text(json.dumps({"images": images, "annotations": objects, "categories": categories}))
    counts = census(module.CocoDataset(tmp_path, file).records)
    assert (counts.images, counts.empty, counts.objects, counts.classes) == (3, 1, 5, 2)
    assert counts.by_size == {"s": 2, "m": 3, "l": 2}, "32 x 32 is small and medium, 96 x 96 medium and large"
    assert counts.sizes_for("bbox") == {"s", "m", "l"} and counts.sizes_for("keypoints") == set()
    assert counts.row("mine", "test")["sizes"] == "301x300 to 303x300"


def test_a_resumed_run_keeps_the_labels_it_was_begun_with(config, tmp_path):
    """Though the file now numbers its categories otherwise."""

    def turn_ids(content):
        turned = {item["id"]: 100 - item["id"] for item in content["categories"]}
        for item in content["categories"]:
            item["id"] = turned[item["id"]]
        for item in content["annotations"]:
            item["category_id"] = turned[item["category_id"]]

    whole = train_detector(config(changes={"OUTPUT_DIR": str(tmp_path / "whole")}))
    changes = {"SOLVER.CHECKPOINT_PERIOD": 1}
    train_detector(config(changes=changes))
    (tmp_path / "run" / "checkpoints" / "iter_0000003.pth").unlink()
    cfg = with_file(config(changes=changes), tmp_path, "synthetic_train", turn_ids)
    resumed = train_detector(cfg, resume=True)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name

    def rename(content):
        content["categories"][1]["name"] = "box"

    (tmp_path / "run" / "checkpoints" / "iter_0000003.pth").unlink()
    with pytest.raises(ConfigError, match=r"circle, box, triangle, and .*02\.pth circle, square, triangle"):
        train_detector(with_file(config(), tmp_path, "synthetic_train", rename), resume=True)


def prepare_as_rank(file, folder):
    """For another process: a preflight in which rank 1 does not see the test set; leaves its error."""
    cfg = load_cfg(file)
    if distributed.rank() == 1:
        cfg.DATASETS.CATALOG["synthetic_test"].ann_file = "/nowhere.json"
    try:
        preflight(cfg)
    except ConvbodyError as error:
        (folder / f"{distributed.rank()}.txt").write_text(str(error))


@pytest.mark.slow
def test_processes_agree_where_one_of_them_finds_something(config, root, tmp_path):
    cfg = config(changes={"MODEL.DEVICE": "cpu"})
    for split in ("train", "test"):
        entry = find_dataset(cfg, f"synthetic_{split}")
        place = {"image_dir": str(entry.image_dir), "ann_file": str(entry.ann_file)}
        cfg.DATASETS.CATALOG[f"synthetic_{split}"] = Config(place)
    file = tmp_path / "run.yaml"
    file.write_text(cfg.dump())
    run_ranks(2, prepare_as_rank, file, tmp_path)
    texts = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert all("no annotation file at /nowhere.json" in text for text in texts)
