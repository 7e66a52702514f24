"""Whole runs: from a config to weights, metrics and a report."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from products import Products

from backbones.weights.contract import contract_of
from backbones.weights.read import read_weights
from convbody.detection import train as train_module
from convbody.detection.data import find_dataset, make_synthetic
from convbody.detection.evaluation import evaluate_checkpoint
from convbody.detection.evaluation import run as run_module
from convbody.detection.heads.registries import META_ARCHITECTURES
from convbody.detection.initial import build_initial_detector
from convbody.detection.inputs import TargetNeeds
from convbody.detection.model import Detector
from convbody.detection.predict import predict
from convbody.detection.train import train_detector
from convbody.detection.trained import load_trained
from convbody.detection.transform import DetectionTransform
from registry import Config, ConfigError, ConvbodyError, load_cfg

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "configs" / "synthetic"
NARROW = ["MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 8]
SMALL = [
    *NARROW,
    *["MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 16, "INPUT.MIN_SIZE_TRAIN", [64], "INPUT.MIN_SIZE_TEST", 64],
    *["SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 2, "SOLVER.LOG_PERIOD", 1, "SOLVER.TENSORBOARD", False],
]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    make_synthetic(root / "synthetic" / "train", images=8, size=64, seed=0)
    make_synthetic(root / "synthetic" / "test", images=3, size=64, seed=1)
    return root


@pytest.fixture
def small_cfg(shapes, tmp_path, monkeypatch):
    """``small_cfg(name, *opts)``: a shipped config, cut down to two iterations on tiny images."""
    monkeypatch.setenv("CONVBODY_DATASETS", str(shapes))

    def load(name, *opts):
        return load_cfg(CONFIGS / f"{name}.yaml", [*SMALL, "OUTPUT_DIR", str(tmp_path / "run"), *opts])

    return load


@pytest.mark.parametrize("name", ["mask_rcnn", "retinanet"])
def test_a_run_leaves_weights_metrics_and_a_report(small_cfg, name):
    cfg = small_cfg(name)
    result = train_detector(cfg)
    folder = Path(cfg.OUTPUT_DIR)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert result.iteration == 2 and "bbox/AP50" in result.metrics
    assert ("segm/AP50" in result.metrics) == cfg.MODEL.MASK_ON
    assert rows[-1]["eval"] == result.metrics
    assert (folder / "report.html").stat().st_size > 10_000
    assert load_cfg(folder / "config.yaml") == cfg
    start = build_initial_detector(cfg).state_dict()
    trained = torch.load(folder / "checkpoints" / "iter_0000002.pth", weights_only=True)["model"]
    assert trained.keys() == start.keys()
    assert any(not torch.equal(trained[key], start[key]) for key in start)


@pytest.mark.parametrize("name", [pytest.param("mask_rcnn", marks=pytest.mark.slow), "retinanet"])
def test_bfloat16_from_training_to_evaluation(small_cfg, name):
    narrow = ("MODEL.ROI_MASK_HEAD.CONV_LAYERS", (16,), "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 32)
    cfg = small_cfg(name, "DTYPE", "bfloat16", *narrow)
    with Products() as products:
        result = train_detector(cfg)
    assert products.read.keys() >= {"aten::convolution", "aten::convolution_backward"}
    with Products() as evaluated:
        (again,) = evaluate_checkpoint(cfg).values()  # what tools/test_net.py does
    for read in (products.read, evaluated.read):
        assert read == {operator: {torch.bfloat16} for operator in read}
    assert again.metrics == result.metrics
    assert {value.dtype for value in result.model.state_dict().values()} <= {torch.float32, torch.int64}


def test_resuming_a_finished_run_keeps_its_results_and_makes_its_report_again(small_cfg):
    cfg = small_cfg("faster_rcnn")
    first = train_detector(cfg)
    report = Path(cfg.OUTPUT_DIR) / "report.html"
    report.unlink()
    again = train_detector(cfg, resume=True)
    assert again.iteration == 2 and again.metrics == first.metrics
    assert report.exists()


def test_an_unexpected_result_fails_the_run_once_all_is_written(small_cfg):
    entry = ["synthetic_test", "box", "AP", 0.9, 0.001]
    cfg = small_cfg("faster_rcnn", "TEST.EXPECTED_RESULTS", [entry])
    with pytest.raises(ConvbodyError, match="wanted 0.9000"):
        train_detector(cfg)
    folder = Path(cfg.OUTPUT_DIR)
    report = folder / "report.html"
    assert report.exists() and (folder / "evaluation" / "synthetic_test" / "metrics.json").exists()
    assert "unexpected result: synthetic_test bbox/AP" in (folder / "log.txt").read_text()
    with pytest.raises(ConvbodyError, match="wanted 0.9000"):
        train_detector(cfg, resume=True)


def test_a_report_that_fails_costs_no_training(small_cfg, monkeypatch):
    def breaks(*args, **options):
        raise KeyError("title")

    monkeypatch.setattr(train_module, "write_report", breaks)
    cfg = small_cfg("faster_rcnn")
    with pytest.raises(ConvbodyError, match="finished and saved, but the report fails: KeyError: 'title'"):
        train_detector(cfg)
    assert load_trained(cfg).weights.file.endswith("best.pth")


def test_an_evaluation_that_fails_costs_no_training(small_cfg, monkeypatch):
    def breaks(*args, **options):
        raise RuntimeError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "score_detections", breaks)
        cfg = small_cfg("faster_rcnn")
        with pytest.raises(ConvbodyError, match="scoring what was found in 'synthetic_test' fails"):
            train_detector(cfg)
    assert [path.name for path in (Path(cfg.OUTPUT_DIR) / "checkpoints").iterdir()] == ["iter_0000002.pth"]
    assert "bbox/AP" in train_detector(cfg, resume=True).metrics


def test_the_same_seed_starts_from_the_same_weights(small_cfg):
    def first(cfg):
        return build_initial_detector(cfg).state_dict()["backbone.body.stem.conv1.weight"]

    assert torch.equal(first(small_cfg("faster_rcnn")), first(small_cfg("faster_rcnn")))
    assert not torch.equal(first(small_cfg("faster_rcnn")), first(small_cfg("faster_rcnn", "SEED", 1)))


def test_a_trained_detector_is_a_weight_file(small_cfg):
    cfg = small_cfg("faster_rcnn", "DATASETS.TEST", ())
    trained = train_detector(cfg).model.state_dict()
    file = str(Path(cfg.OUTPUT_DIR) / "checkpoints" / "iter_0000002.pth")
    loaded = build_initial_detector(small_cfg("faster_rcnn", "MODEL.WEIGHT", file)).state_dict()
    for key in trained:
        if not key.endswith("num_batches_tracked"):  # a counter that nothing reads, no weight
            assert torch.equal(loaded[key], trained[key]), key


@pytest.mark.parametrize("file", ["iter_0000002.pth", "best.pth"])
def test_a_trained_detector_says_what_its_weights_expect(small_cfg, file):
    cfg = small_cfg("faster_rcnn")
    train_detector(cfg)
    path = Path(cfg.OUTPUT_DIR) / "checkpoints" / file
    assert read_weights(path).contract == contract_of(cfg)
    if file != "best.pth":
        (path.parent / "best.pth").unlink()
    load_trained(cfg)
    other = small_cfg("faster_rcnn", "INPUT.PIXEL_MEAN", [0.9, 0.4, 0.4])
    for refused in (
        lambda: load_trained(other),
        lambda: load_trained(other, path),
        lambda: build_initial_detector(
            small_cfg("faster_rcnn", "INPUT.TO_BGR255", True, "MODEL.WEIGHT", str(path))
        ),
    ):
        with pytest.raises(ConfigError, match="was trained with other settings"):
            refused()


def test_prediction_turns_photographs_as_training_did(small_cfg, tmp_path):
    cfg = small_cfg("retinanet", "DATASETS.TEST", ())
    (name,) = cfg.DATASETS.TRAIN
    entry = find_dataset(cfg, name, "DATASETS.TRAIN")
    data = json.loads(entry.ann_file.read_text())
    exif = Image.Exif()
    exif[0x0112] = 6
    for image in data["images"]:  # stored 64x48, and seen and annotated 48x64
        picture = Image.open(entry.image_dir / image["file_name"]).crop((0, 0, 64, 48))
        (tmp_path / "images").mkdir(exist_ok=True)
        picture.save(tmp_path / "images" / image["file_name"], exif=exif)
        image |= {"width": 48, "height": 64}
    for annotation in data["annotations"]:
        annotation |= {"bbox": [5, 5, 20, 30], "area": 600, "segmentation": None, "keypoints": None}
    (tmp_path / "ann.json").write_text(json.dumps(data))
    place = {"image_dir": str(tmp_path / "images"), "ann_file": str(tmp_path / "ann.json")}
    cfg.DATASETS.CATALOG["photographs"] = Config(place)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("photographs",)
    train_detector(cfg)
    file = Path(cfg.OUTPUT_DIR) / "checkpoints" / "best.pth"
    assert torch.load(file, weights_only=True)["exif"] == ["auto", "apply"]
    photo = tmp_path / "images" / data["images"][0]["file_name"]

    def size_of_prediction(choice):
        cfg.DATASETS.EXIF = choice
        assert predict(cfg, [str(photo)], output_dir=tmp_path / "out") == 0
        (answer,) = (tmp_path / "out").glob("*.json")
        return json.loads(answer.read_text())["width"]

    assert size_of_prediction("auto") == size_of_prediction("apply") == 48
    assert size_of_prediction("ignore") == 64
    payload = torch.load(file, weights_only=True)
    torch.save({**payload, "exif": ["ignore", "ignore"]}, file)
    assert size_of_prediction("auto") == 64
    cfg.DATASETS.EXIF = "auto"
    with pytest.raises(ConvbodyError, match="because of its EXIF orientation and DATASETS.EXIF ignore"):
        evaluate_checkpoint(cfg)


def with_other_classes(cfg, tmp_path, change):
    """The config with a test set whose categories ``change`` makes of the old ones."""
    entry = find_dataset(cfg, "synthetic_test")
    content = json.loads(entry.ann_file.read_text())
    content["categories"] = change(content["categories"])
    (tmp_path / "other.json").write_text(json.dumps(content))
    place = {"image_dir": str(entry.image_dir), "ann_file": str(tmp_path / "other.json")}
    cfg.DATASETS.CATALOG["synthetic_test"] = Config(place)
    return cfg


def test_a_trained_detector_is_tested_on_classes_of_its_names(small_cfg, tmp_path):
    cfg = small_cfg("faster_rcnn")
    trained = train_detector(cfg)
    folder = Path(cfg.OUTPUT_DIR) / "checkpoints"
    for file in ("iter_0000002.pth", "best.pth"):
        assert read_weights(folder / file).notes["classes"] == ("circle", "square", "triangle")
    turned = with_other_classes(small_cfg("faster_rcnn"), tmp_path, lambda categories: categories[::-1])
    (result,) = evaluate_checkpoint(turned).values()
    assert result.metrics == trained.metrics
    assert [row["class"] for row in result.per_class] == ["triangle", "square", "circle"]

    def renamed(categories):
        return [{**each, "name": each["name"].replace("circle", "disc")} for each in categories]

    other = with_other_classes(small_cfg("faster_rcnn"), tmp_path, renamed)
    words = r"has the classes disc, square, triangle, and .*best\.pth circle, square, triangle, without disc"
    with pytest.raises(ConfigError, match=words):
        evaluate_checkpoint(other)


def test_resuming_a_finished_or_a_broken_off_run(small_cfg, tmp_path):
    whole = train_detector(
        small_cfg("faster_rcnn", "DATASETS.TEST", (), "OUTPUT_DIR", str(tmp_path / "whole"))
    )
    cfg = small_cfg("faster_rcnn", "DATASETS.TEST", (), "SOLVER.CHECKPOINT_PERIOD", 1)
    train_detector(cfg)
    (Path(cfg.OUTPUT_DIR) / "checkpoints" / "iter_0000002.pth").unlink()
    resumed = train_detector(cfg, resume=True)
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key


def test_wrong_class_count_is_said_before_training(small_cfg):
    with pytest.raises(ConfigError, match=r"3 classes.*MODEL\.ROI_BOX_HEAD\.NUM_CLASSES = 81"):
        train_detector(small_cfg("faster_rcnn", "MODEL.ROI_BOX_HEAD.NUM_CLASSES", 81))


@pytest.mark.parametrize(
    "name, opts, key, count",
    [
        ("mask_rcnn", (), "MODEL.ROI_BOX_HEAD.NUM_CLASSES", 4),
        ("retinanet", ("MODEL.RPN_ONLY", True), "MODEL.RETINANET.NUM_CLASSES", 4),
        ("fcos", ("MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 32), "MODEL.FCOS.NUM_CLASSES", 4),
        ("faster_rcnn", ("MODEL.RPN_ONLY", True), "MODEL.META_ARCHITECTURE", None),
    ],
)
def test_every_detector_knows_its_class_count(small_cfg, name, opts, key, count):
    needs = build_initial_detector(small_cfg(name, *opts)).needs
    assert (needs.class_key, needs.num_classes) == (key, count)


class Bare(Detector):
    """A plugin's detector, whose class count is no key of ours."""

    classes = 4

    def __init__(self, cfg, backbone):
        super().__init__()
        self.transform, self.backbone = DetectionTransform(cfg, backbone.size_divisibility), backbone
        self.needs = TargetNeeds(self.classes)

    def losses(self, images, features, targets):
        return {"loss": sum(feature.mean() for feature in features)}


def test_a_plugins_detector_is_checked_by_its_own_class_count(small_cfg, monkeypatch, tmp_path):
    monkeypatch.setattr(META_ARCHITECTURES, "_entries", dict(META_ARCHITECTURES._entries))
    META_ARCHITECTURES.register("Bare", Bare)
    opts = ("MODEL.META_ARCHITECTURE", "Bare", "DATASETS.TEST", (), "MODEL.ROI_BOX_HEAD.NUM_CLASSES", 81)
    assert train_detector(small_cfg("faster_rcnn", *opts, "SOLVER.MAX_ITER", 1)).iteration == 1
    monkeypatch.setattr(Bare, "classes", 5)
    cfg = small_cfg("faster_rcnn", *opts, "OUTPUT_DIR", str(tmp_path / "other"))
    with pytest.raises(ConfigError, match=r"3 classes.*made for 5 \(MODEL\.META_ARCHITECTURE = 'Bare'"):
        train_detector(cfg)


def test_weights_that_do_not_fit_are_refused(small_cfg, tmp_path):
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ConvbodyError, match=r"other\.pth"):
        train_detector(small_cfg("faster_rcnn", "MODEL.WEIGHT", str(tmp_path / "other.pth")))


def test_non_finite_loss_names_term_iteration_and_images(small_cfg):
    cfg = small_cfg("faster_rcnn", "SOLVER.BASE_LR", 1e12, "SOLVER.WARMUP_FACTOR", 1.0, "SOLVER.MAX_ITER", 20,
                    "SOLVER.CLIP_GRADIENTS.ENABLED", False)  # fmt: skip
    with pytest.raises(ConvbodyError, match=r"loss_\w+ .*iteration \d+") as error:
        train_detector(cfg)
    assert "resume" in str(error.value)
    assert list((Path(cfg.OUTPUT_DIR) / "checkpoints").glob("iter_*.pth")), "the state before is saved"


def train_command(cfg_file, *opts):
    return [
        sys.executable,
        str(ROOT / "tools" / "train_net.py"),
        "--config-file",
        str(cfg_file),
        *map(str, opts),
    ]


@pytest.mark.slow
def test_sigterm_saves_and_exits_with_a_message(shapes, tmp_path, monkeypatch):
    monkeypatch.setenv("CONVBODY_DATASETS", str(shapes))
    opts = [*SMALL, "OUTPUT_DIR", tmp_path / "run", "SOLVER.MAX_ITER", 100_000, "DATASETS.TEST", "()"]
    process = subprocess.Popen(
        train_command(CONFIGS / "faster_rcnn.yaml", *opts),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if "iter 3/" in line:
            process.send_signal(signal.SIGTERM)
            break
    rest = process.stdout.read()
    assert process.wait(timeout=60) == 128 + signal.SIGTERM, rest
    assert "--resume" in rest and "Traceback" not in rest
    assert len(list((tmp_path / "run" / "checkpoints").glob("iter_*.pth"))) == 1


@pytest.mark.slow
def test_two_processes_train_and_evaluate_one_detector(shapes, tmp_path, monkeypatch):
    monkeypatch.setenv("CONVBODY_DATASETS", str(shapes))
    command = train_command(CONFIGS / "mask_rcnn.yaml", *SMALL, "OUTPUT_DIR", tmp_path / "run")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run([*torchrun, *command[1:]], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert sum("eval" in json.loads(row) for row in rows) == 1, "one log, not one per process"
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.slow
def test_mask_rcnn_learns_the_shapes(tmp_path, monkeypatch):
    """The bar of the synthetic set: masks at AP50 0.7, within a CPU budget that a test can afford."""
    make_synthetic(tmp_path / "synthetic" / "train", images=200, seed=0)
    make_synthetic(tmp_path / "synthetic" / "test", images=40, seed=1)
    monkeypatch.setenv("CONVBODY_DATASETS", str(tmp_path))
    cfg = load_cfg(CONFIGS / "mask_rcnn.yaml", ["SOLVER.MAX_ITER", 100, "OUTPUT_DIR", str(tmp_path / "run")])
    metrics = train_detector(cfg).metrics
    assert metrics["segm/AP50"] >= 0.7, metrics
