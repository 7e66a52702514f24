"""Several real processes, each with the whole model or with a part of it."""

import pytest
import torch
import training_toy as toy
from ranks import run_ranks

from convbody.training import parallel, read_checkpoint
from registry import ConfigError

PLAIN = {"norm": False, "dropout": 0.0}
FSDP = {"SOLVER__PARALLEL": "fsdp"}


def run(world, folder, changes=(), **options):
    """Train the toy in ``world`` processes; the weights and averaged weights that they end with."""
    changes, options = {"SOLVER__MAX_ITER": 12, **dict(changes)}, {"network": PLAIN, **options}
    run_ranks(world, toy.run_in_process, folder, changes, options, seconds=300)
    return torch.load(folder / "final_0.pth")


def alone(folder, changes=(), **options):
    """The same in this process."""
    model = toy.network(**PLAIN)
    result = toy.run(folder, toy.config(**{"SOLVER__MAX_ITER": 12, **dict(changes)}), model, **options)
    return [model.state_dict(), result.model.state_dict()]


def assert_close(ours, theirs):
    for left, right in zip(ours, theirs, strict=True):
        assert list(left) == list(right)
        torch.testing.assert_close(dict(left), dict(right), rtol=1e-5, atol=1e-6)


SETTINGS = [
    {"SOLVER__OPTIMIZER": "AdamW", "SOLVER__BASE_LR": 0.01, "SOLVER__EMA__ENABLED": True},
    {
        "SOLVER__IMS_PER_BATCH": 2,
        "SOLVER__ACCUMULATE": 2,
        "SOLVER__CLIP_GRADIENTS__ENABLED": True,
        "SOLVER__CLIP_GRADIENTS__CLIP_VALUE": 0.05,
    },
    {"SOLVER__CLIP_GRADIENTS__ENABLED": True, "SOLVER__CLIP_GRADIENTS__CLIP_VALUE": 0.01}
    | {"SOLVER__CLIP_GRADIENTS__CLIP_TYPE": "value"},
]


@pytest.mark.parametrize("changes", SETTINGS, ids=["AdamW and EMA", "accumulated and clipped", "by value"])
def test_two_parts_are_one_process(changes, tmp_path):
    """The optimiser, the average of weights, accumulation and clipping act on the whole."""
    assert_close(run(2, tmp_path / "two", FSDP | changes), alone(tmp_path / "one", changes))


def test_static_graph_and_bucket_views_are_one_process(tmp_path):
    changes = {"SOLVER__CLIP_GRADIENTS__ENABLED": True, "SOLVER__CLIP_GRADIENTS__CLIP_VALUE": 0.05}
    assert_close(run(2, tmp_path / "two", changes), alone(tmp_path / "one", changes))


def resume_in_turn(folder, layouts, changes):
    """Stop after every 4 iterations and go on in the next layout; what the last one ends with."""
    for number, (world, way) in enumerate(layouts, start=1):
        step = {**changes, "SOLVER__MAX_ITER": 4 * number, "SOLVER__PARALLEL": way}
        resumed = {"resume": number > 1}
        ends = alone(folder, step, **resumed) if world == 1 else run(world, folder, step, **resumed)
    return ends


MOMENTA = {"SOLVER__EMA__ENABLED": True, "SOLVER__CHECKPOINT_PERIOD": 4}


def test_a_run_goes_on_in_another_layout(tmp_path):
    layouts = [(1, "ddp"), (2, "fsdp"), (1, "ddp")]
    ends = resume_in_turn(tmp_path / "moved", layouts, MOMENTA)
    assert_close(ends, alone(tmp_path / "stayed", MOMENTA))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_a_run_goes_on_in_every_layout(optimizer, tmp_path):
    changes = MOMENTA | {"SOLVER__OPTIMIZER": optimizer}
    layouts = [(1, "fsdp"), (2, "fsdp"), (4, "fsdp"), (2, "ddp"), (4, "ddp"), (2, "fsdp"), (1, "ddp")]
    ends = resume_in_turn(tmp_path / "moved", layouts, changes)
    assert_close(ends, alone(tmp_path / "stayed", changes | {"SOLVER__MAX_ITER": 28}))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{}, {"SOLVER__IMS_PER_BATCH": 4, "SOLVER__ACCUMULATE": 2}, FSDP],
    ids=["ddp", "ddp, accumulated", "fsdp"],
)
def test_four_processes_resume_to_the_bit(changes, tmp_path, same_weights):
    """The sum of four numbers depends on its order, which is not to depend on where a run was cut."""
    changes = {"SOLVER__EMA__ENABLED": True, "SOLVER__IMS_PER_BATCH": 8, **changes}
    options = {"network": {"width": 64}}
    run(4, tmp_path / "parts", {**changes, "SOLVER__MAX_ITER": 5}, **options)
    parts = run(4, tmp_path / "parts", changes, resume=True, **options)
    whole = run(4, tmp_path / "whole", changes, **options)
    assert all(same_weights(ours, theirs) for ours, theirs in zip(parts, whole, strict=True))


def test_files_are_those_of_one_process(tmp_path):
    """The same keys and plain tensors, so that they are weights for MODEL.WEIGHT; of the best ones too."""
    run(2, tmp_path / "two", FSDP)
    alone(tmp_path / "one")
    for name in ("iter_0000012.pth", "best.pth"):
        ours, theirs = (read_checkpoint(tmp_path / kind / "checkpoints" / name) for kind in ("two", "one"))
        assert ours.keys() == theirs.keys()
        assert {key: type(value) for key, value in ours["model"].items()} == dict.fromkeys(
            theirs["model"], torch.Tensor
        )
        torch.testing.assert_close(ours["model"], dict(theirs["model"]), rtol=1e-5, atol=1e-6)


def test_one_process_has_the_whole_model(tmp_path, same_weights):
    assert same_weights(alone(tmp_path / "fsdp", FSDP)[0], alone(tmp_path / "ddp")[0])
    assert not parallel.whole({"plain": [torch.ones(1)]})["plain"][0].is_meta


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SOLVER__PARALLEL": "zero"}, "use ddp or fsdp .*SOLVER.PARALLEL = 'zero'"),
        (FSDP | {"DTYPE": "float16"}, "use bfloat16 or ddp"),
    ],
)
def test_what_cannot_be_is_an_error(changes, message, monkeypatch):
    monkeypatch.setattr("convbody.training.distributed.world_size", lambda: 2)
    with pytest.raises(ConfigError, match=message):
        parallel.check_parallel(toy.config(**changes))


def test_a_scalar_cannot_be_divided(monkeypatch):
    monkeypatch.setattr("convbody.training.distributed.world_size", lambda: 2)
    model = toy.network()
    model.head.scale = torch.nn.Parameter(torch.tensor(1.0))
    with pytest.raises(ConfigError, match=r"the scalar head\.scale; use ddp"):
        parallel.shard(toy.config(**FSDP), [model], [])
