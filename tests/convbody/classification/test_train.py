"""Whole runs: from a config to accuracy, checkpoints, and a body that starts something else."""

import json
from pathlib import Path

import pytest
import torch
from ranks import run_ranks

from backbones import build_backbone
from backbones.weights import load_weights
from backbones.weights.read import read_weights
from convbody.classification import evaluation, initial
from convbody.classification import train as recipe
from convbody.classification.data.loader import Known, open_test_sets
from convbody.classification.evaluation import evaluate_checkpoint
from convbody.classification.initial import build_initial_classifier, trained_contract
from convbody.classification.train import train_classifier
from convbody.training import distributed
from convbody.training.schedule import parameter_groups
from registry import ConfigError, ConvbodyError, load_cfg

WHOLE_RECIPE = {
    "SOLVER.EMA.ENABLED": True,
    "SOLVER.ACCUMULATE": 2,
    "INPUT.CLASSIFICATION.MIXUP_ALPHA": 0.4,
    "INPUT.CLASSIFICATION.RAND_AUGMENT.ENABLED": True,
    "INPUT.CLASSIFICATION.PAD": 1,
    "MODEL.CLASSIFIER.LABEL_SMOOTHING.MASS": 0.1,
}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_a_run_learns_and_leaves_its_files(cls_cfg):
    cfg = cls_cfg({"SOLVER.MAX_ITER": 30, "SOLVER.TEST_PERIOD": 15, "SOLVER.KEEP_CHECKPOINTS": 2})
    result = train_classifier(cfg)
    folder = Path(cfg.OUTPUT_DIR)
    assert result.metrics["top1"] > 0.5 and result.metrics["top5"] >= result.metrics["top1"]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["eval"].keys() for row in rows if "eval" in row] == [{"top1", "top5"}] * 2
    assert rows[0].keys() >= {"loss", "time", "data_time", "images/s"}
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert names == ["best.pth", "iter_0000028.pth", "iter_0000030.pth"]
    assert evaluate_checkpoint(cfg)["top1"] == max(e["top1"] for e in result.evaluations.values())


def test_what_was_done_with_orientations_is_recorded_and_done_again(cls_cfg, monkeypatch):
    cfg = cls_cfg({"DATASETS.EXIF": "apply", "SOLVER.MAX_ITER": 1})
    recipe.train_classifier(cfg)
    opened = []

    def open_and_tell(cfg, known):
        opened.append(cfg.DATASETS.EXIF)
        return open_test_sets(cfg, known)

    monkeypatch.setattr(evaluation, "open_test_sets", open_and_tell)
    cfg.DATASETS.EXIF = "auto"
    evaluate_checkpoint(cfg)
    assert opened == ["apply"]


def test_bfloat16(cls_cfg):
    result = train_classifier(cls_cfg({"DTYPE": "bfloat16"}))
    assert result.iteration == 4
    assert {parameter.dtype for parameter in result.model.parameters()} == {torch.float32}


def test_the_body_is_a_weight_file_that_says_what_it_expects(cls_cfg):
    cfg = cls_cfg({"SOLVER.EMA.ENABLED": True, "MODEL.CIFAR_RESNETS.BN_EPSILON": 1e-3})
    train_classifier(cfg)
    folder = Path(cfg.OUTPUT_DIR)
    file = folder / recipe.BODY_FILE
    contract = read_weights(file).contract
    assert contract == trained_contract(cfg)
    assert (contract.size, contract.mean, contract.norm_epsilon) == ((8, 8), (0.5,), 1e-3)
    assert read_weights(folder / "checkpoints" / "best.pth").contract == contract

    neck = {"MODEL.BACKBONE.CONV_BODY": "R-20-CIFAR-FPN", "MODEL.CIFAR_RESNETS.BN_EPSILON": 1e-3}
    backbone = build_backbone(cls_cfg(neck))
    report = load_weights(backbone, file, cls_cfg(neck))
    assert not report.unexpected and all(name.startswith("fpn.") for name in report.missing)
    best = torch.load(folder / "checkpoints" / "best.pth", weights_only=True)["model"]
    assert torch.equal(backbone.body.layer2[0].conv1.weight, best["backbone.body.layer2.0.conv1.weight"])
    other = cls_cfg({**neck, "INPUT.PIXEL_MEAN": [0.1]})
    with pytest.raises(ConfigError, match=r"PIXEL_MEAN = \[0.1\], .* should be \[0.5\]"):
        load_weights(backbone, file, other)


def test_classes_travel_with_the_weights(cls_cfg):
    cfg = cls_cfg()
    trained = train_classifier(cfg).model.state_dict()
    file = str(Path(cfg.OUTPUT_DIR) / "checkpoints" / "best.pth")
    names = read_weights(file).notes["classes"]
    assert len(names) == 10 and names[3] == "3 - three"
    other = cls_cfg({"MODEL.WEIGHT": file, "MODEL.CLASSIFIER.NUM_CLASSES": 3})
    begun = build_initial_classifier(other, Known(("star", "3 - three", "0 - zero"), "the data"))
    assert torch.equal(begun.fc.weight[1:], trained["fc.weight"][[3, 0]])
    assert torch.equal(begun.fc.bias[1:], trained["fc.bias"][[3, 0]])
    assert not any(torch.equal(begun.fc.weight[0], row) for row in trained["fc.weight"])
    payload = torch.load(file, weights_only=True)
    torch.save({**payload, "classes": ["ant", *names[1:]]}, file)
    with pytest.raises(ConfigError, match=r"'bars_test' has the classes 0 - zero, .*best\.pth ant, 1 - "):
        evaluate_checkpoint(cfg)


@pytest.mark.parametrize("stop_at", [3, 6])
def test_resumed_is_uninterrupted_to_the_bit(cls_cfg, tmp_path, monkeypatch, stop_at):
    """With all that draws random numbers; the run is left in the middle of an iteration."""
    whole = train_classifier(cls_cfg({**WHOLE_RECIPE, "OUTPUT_DIR": str(tmp_path / "whole")}))
    cfg = cls_cfg(WHOLE_RECIPE)
    forward, calls = initial.cross_entropy, 0

    def dies(logits, targets):
        nonlocal calls
        calls += 1
        if calls == 1 + stop_at:  # one is the preflight's
            raise KeyboardInterrupt
        return forward(logits, targets)

    with monkeypatch.context() as patch:
        patch.setattr(initial, "cross_entropy", dies)
        with pytest.raises(KeyboardInterrupt):
            train_classifier(cfg)
    resumed = train_classifier(cfg, resume=True)
    assert same(resumed.model.state_dict(), whole.model.state_dict())
    first, second = (
        torch.load(tmp_path / name / "checkpoints" / "iter_0000004.pth", weights_only=True)
        for name in ("whole", "run")
    )
    assert same(first["model"], second["model"]) and resumed.metrics == whole.metrics


def test_norms_and_biases_do_not_decay(cls_cfg):
    cfg = cls_cfg({"SOLVER.WEIGHT_DECAY": 0.1})
    model = build_initial_classifier(cfg)
    decay = {name: group["weight_decay"] for group in parameter_groups(cfg, model) for name in group["names"]}
    for name, parameter in model.named_parameters():
        assert decay[name] == (0.1 if parameter.ndim > 1 else 0.0), name


def _train_and_save(config):
    result = train_classifier(load_cfg(config, ["SEED", distributed.rank()]))  # other weights to begin with
    torch.save(result.model.state_dict(), config.parent / f"final_{distributed.rank()}.pth")


@pytest.mark.slow
def test_two_processes_end_equal_statistics_included(cls_cfg, tmp_path):
    cfg = cls_cfg({"SOLVER.CHECKPOINT_PERIOD": 4})
    config = tmp_path / "cfg.yaml"
    config.write_text(cfg.dump())
    run_ranks(2, _train_and_save, config)
    states = [torch.load(tmp_path / f"final_{rank}.pth") for rank in range(2)]
    assert same(*states)
    saved = torch.load(tmp_path / "run" / "checkpoints" / "iter_0000004.pth", weights_only=True)["model"]
    assert same(saved, states[0])
    assert saved["backbone.body.stem.bn1.running_mean"].abs().sum() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"DATASETS.TRAIN": []}, "DATASETS.TRAIN"),
        ({"DATASETS.TEST": ["digit_test"]}, "nearest: digits_test.*DATASETS.TEST"),
        ({"MODEL.BACKBONE.FREEZE_CONV_BODY_AT": 1}, "frozen at random weights.*FREEZE_CONV_BODY_AT"),
        ({"MODEL.WEIGHT": "nowhere.pth"}, "nowhere.pth"),
    ],
)
def test_a_mistake_is_said_before_training(cls_cfg, changes, message):
    with pytest.raises(ConvbodyError, match=message):
        train_classifier(cls_cfg(changes))


def test_evaluating_without_weights_or_with_those_of_a_body_alone(cls_cfg):
    cfg = cls_cfg()
    with pytest.raises(ConvbodyError, match="no checkpoint in"):
        evaluate_checkpoint(cfg)
    train_classifier(cfg)
    with pytest.raises(ConvbodyError, match="does not hold all weights of this model.* missing: fc"):
        evaluate_checkpoint(cls_cfg({"MODEL.WEIGHT": str(Path(cfg.OUTPUT_DIR) / recipe.BODY_FILE)}))
