"""Who trains on which image, and when."""

import pytest
import torch

from convbody.classification.data.loader import open_train_sets, train_batches
from convbody.search.split import Timetable, split, timetable
from registry import ConfigError


def names(batches, count):
    stream = batches(0)
    return {name for _ in range(count) for name in next(stream)[2]}


def test_the_two_parts_share_no_image_and_leave_none_out(search_cfg):
    cfg = search_cfg()
    sets = open_train_sets(cfg)
    weights, theta = split(cfg, sets)
    assert [len(part) for part in (*weights, *theta)] == [32, 8]
    seen = [names(train_batches(cfg, part), count) for part, count in ((weights, 4), (theta, 1))]
    assert seen[0] & seen[1] == set()
    assert seen[0] | seen[1] == {sets[0].identify(index) for index in range(40)}


def test_a_part_has_the_pictures_and_labels_of_the_set(search_cfg):
    cfg = search_cfg()
    (images,) = open_train_sets(cfg)
    (part,), _ = split(cfg, [images])
    for index in (0, 7, 31):
        there = part.indices[index]
        assert torch.equal(part.load(index, 1), images.load(there, 1))
        assert part.labels[index] == images.labels[there]


def test_the_split_follows_the_seed_alone(search_cfg):
    def chosen(seed):
        cfg = search_cfg({"SEED": seed})
        return split(cfg, open_train_sets(cfg))[0][0].indices

    assert chosen(0) == chosen(0) != chosen(1)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_part_without_images_is_an_error(search_cfg, share):
    cfg = search_cfg({"SEARCH.WEIGHT_SHARE": share})
    with pytest.raises(ConfigError, match="SEARCH.WEIGHT_SHARE"):
        split(cfg, open_train_sets(cfg))


def test_weights_train_alone_first_then_in_turns():
    plan = Timetable(epochs=3, warmup=1, weight_steps=2, theta_steps=1)
    assert plan.total == 8
    moments = [plan.at(step) for step in range(plan.total)]
    assert [moment.epoch for moment in moments] == [0, 0, 1, 1, 1, 2, 2, 2]
    assert [moment.trains_theta for moment in moments] == [False, False] + [False, False, True] * 2
    assert [moment.number for moment in moments if not moment.trains_theta] == [0, 1, 2, 3, 4, 5]
    assert [moment.number for moment in moments if moment.trains_theta] == [0, 1]


@pytest.mark.parametrize(
    ("key", "value"), [("SEARCH.EPOCHS", 0), ("SEARCH.WARMUP_EPOCHS", 4), ("SOLVER.IMS_PER_BATCH", 9)]
)
def test_a_timetable_that_cannot_be_names_its_key(search_cfg, key, value):
    with pytest.raises(ConfigError, match=key):
        timetable(search_cfg({key: value}), 32, 8)
