"""The parts of a preflight: they find what would fail, and leave no trace."""

import shutil

import pytest
import torch
import training_toy as toy

from convbody.training import preflight
from convbody.training.checkpoint import CheckpointError, CheckpointFolder, write_checkpoint
from convbody.training.findings import Findings
from convbody.training.random_state import random_state
from registry import ConfigError, ConvbodyError


def state_of(cfg, model=None):
    model = model or toy.network()
    return preflight.initial_state(cfg, model, [("stem", [model.conv, model.norm])], {"classes": ["a"]})


def test_a_trial_leaves_no_trace_in_the_model_and_the_generators(same_weights):
    cfg, model = toy.config(), toy.network().eval()
    model.norm.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generators = random_state()
    with preflight.untouched(model):
        preflight.rehearse_step(cfg, model, toy.losses, next(toy.stream(4, 0)))
        assert model.training and model.conv.weight.grad is not None
        assert not same_weights(model.state_dict(), before), "batch norm counts the batch"
    assert same_weights(model.state_dict(), before)
    assert torch.equal(random_state()["torch"], generators["torch"])
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.training and model.norm.training and not model.head.training


def test_a_run_after_a_trial_is_the_run_without(tmp_path, same_weights):
    cfg, tried, other = toy.config(SOLVER__EMA__ENABLED=True), toy.network(), toy.network()
    with preflight.untouched(tried):
        preflight.rehearse_step(cfg, tried, toy.losses, next(toy.stream(4, 0)))
    preflight.rehearse_saving(Findings(), state_of(cfg, tried), 0, tmp_path / "tried", False)
    toy.run(tmp_path / "tried", cfg, tried)
    toy.run(tmp_path / "other", cfg, other)
    assert same_weights(tried.state_dict(), other.state_dict())


def test_a_loss_that_is_not_finite_is_found():
    images, targets, names = next(toy.stream(4, 0))
    with pytest.raises(ConvbodyError, match="loss_square is nan with the weights that the run starts from"):
        preflight.rehearse_step(toy.config(), toy.network(), toy.losses, (images * torch.nan, targets, names))


def test_batch_norm_of_one_value_is_found_with_what_to_do():
    images, targets, names = next(toy.stream(1, 0))
    with pytest.raises(ConvbodyError, match=r"one value per channel .*SOLVER.IMS_PER_BATCH"):
        preflight.rehearse_step(
            toy.config(), toy.network(), toy.losses, (images[:, :, :1, :1], targets, names)
        )


@pytest.mark.parametrize("made_before", [True, False])
def test_a_trial_checkpoint_leaves_nothing(tmp_path, made_before):
    folder = tmp_path / "runs" / "one"
    if made_before:
        folder.mkdir(parents=True)
    preflight.rehearse_checkpoint(state_of(toy.config()).capture(0), folder, 0)
    assert list(tmp_path.rglob("*")) == ([tmp_path / "runs", folder] if made_before else [])


def test_a_folder_that_cannot_be_written_is_found(tmp_path):
    (tmp_path / "file").write_text("")
    findings = Findings()
    preflight.check_settings(toy.config(OUTPUT_DIR=str(tmp_path / "file" / "run"), DTYPE="half"), findings)
    with pytest.raises(ConvbodyError, match=r"(?s)DTYPE.*OUTPUT_DIR .*file/run cannot be written"):
        findings.stop_if_any()


def test_a_disk_without_room_for_a_later_checkpoint_is_found(tmp_path, monkeypatch):
    payload = state_of(toy.config()).capture(0)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: usage._replace(free=3 * 2**20))
    preflight.rehearse_checkpoint(payload, tmp_path, 2 * 2**20)
    with pytest.raises(CheckpointError, match=r"takes about 4 MiB, and OUTPUT_DIR .* has room for 3 MiB"):
        preflight.rehearse_checkpoint(payload, tmp_path, 4 * 2**20)


def test_a_limit_of_the_size_of_files_is_found(tmp_path, monkeypatch):
    payload = state_of(toy.config()).capture(0)
    monkeypatch.setattr(preflight.resource, "getrlimit", lambda kind: (2**20, 2**20))
    with pytest.raises(CheckpointError, match=r"write files of 1 MiB; .*ulimit"):
        preflight.rehearse_checkpoint(payload, tmp_path, 2**21)


@pytest.mark.parametrize(
    "changes", [{}, {"SOLVER__OPTIMIZER": "AdamW"}, {"SOLVER__EMA__ENABLED": True}], ids=str
)
def test_the_size_of_later_checkpoints_is_known(tmp_path, changes):
    cfg = toy.config(SOLVER__MAX_ITER=2, SOLVER__CHECKPOINT_PERIOD=2, **changes)
    model = toy.network()
    model.head = torch.nn.Linear(8, 2)
    model.big = torch.nn.Linear(500, 400)  # large beside what every checkpoint holds

    def losses(module, batch):
        return toy.losses(module, batch) | {"loss_big": 0.0 * module.big.weight.sum() + module.big.bias.sum()}

    state = state_of(cfg, model)
    write_checkpoint(state.capture(0), tmp_path / "first.pth")
    toy.run(tmp_path, cfg, model, losses=losses)
    first, later = (
        path.stat().st_size
        for path in (tmp_path / "first.pth", *CheckpointFolder(tmp_path / "checkpoints").files())
    )
    assert later - first == pytest.approx(preflight.state_growth(state), rel=0.05)


def test_checkpoints_in_the_way_are_found(tmp_path):
    cfg = toy.config(SOLVER__MAX_ITER=1)
    toy.run(tmp_path, cfg)
    for resume, changes, words in (
        (False, {}, "of an earlier run"),
        (True, {"SOLVER__OPTIMIZER": "AdamW"}, "SGD"),
    ):
        findings = Findings()
        preflight.rehearse_saving(findings, state_of(toy.config(**changes)), 0, tmp_path, resume)
        with pytest.raises(CheckpointError, match=words):
            findings.stop_if_any()
    findings = Findings()
    preflight.rehearse_saving(findings, state_of(cfg), 0, tmp_path, True)
    assert not findings


def test_the_names_of_the_run_to_go_on_with(tmp_path):
    cfg = toy.config(SOLVER__MAX_ITER=2, SOLVER__CHECKPOINT_PERIOD=1)
    assert preflight.notes_to_resume(tmp_path, True) == ("", {})
    toy.run(tmp_path, cfg, notes={"classes": ["a", None]})
    newest = tmp_path / "checkpoints" / "iter_0000002.pth"
    assert preflight.notes_to_resume(tmp_path, False) == ("", {})
    assert preflight.notes_to_resume(tmp_path, True) == (str(newest), {"classes": ("a", None)})
    newest.write_bytes(newest.read_bytes()[:100])
    file, notes = preflight.notes_to_resume(tmp_path, True)
    assert file.endswith("iter_0000001.pth") and notes == {"classes": ("a", None)}


def test_a_metric_that_no_evaluation_gives():
    preflight.check_best_metric(toy.config(SOLVER__BEST_METRIC="AP"), ["AP", "AP50"])
    preflight.check_best_metric(toy.config(SOLVER__BEST_METRIC="AP"), [])
    with pytest.raises(ConfigError, match="no such metric, but AP, AP50 .SOLVER.BEST_METRIC = 'mAP'"):
        preflight.check_best_metric(toy.config(SOLVER__BEST_METRIC="mAP"), ["AP", "AP50"])


def test_columns_are_as_wide_as_their_widest_cell():
    rows = [{"name": "a", "n": "1,000"}, {"name": "longer", "n": "2"}]
    assert preflight.in_columns(rows) == "name    n\na       1,000\nlonger  2"
