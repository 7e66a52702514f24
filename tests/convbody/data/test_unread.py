"""Images that cannot be read, in one process and in several."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest
from ranks import run_ranks
from torch.utils.data import Dataset

from convbody.data.batches import NumberedBatches
from convbody.data.errors import DataError
from convbody.data.sampler import Draw
from convbody.data.unread import Unread
from convbody.training.distributed import rank
from registry import ConfigError, load_cfg

SKIP = ["DATASETS.ON_ERROR", "skip", "SOLVER.IMS_PER_BATCH", 4, "DATALOADER.NUM_WORKERS", 0]


class Numbers(Dataset):
    """The numbers of images, of which some are damaged."""

    def __init__(self, damaged: set[int]) -> None:
        self.damaged = damaged

    def __getitem__(self, draw: Draw) -> int | DataError:
        return DataError(f"{draw.image} is damaged") if draw.image in self.damaged else draw.image


def batches(damaged: set[int], *opts: object) -> NumberedBatches[list[int]]:
    return NumberedBatches(load_cfg(None, [*SKIP, *opts]), Numbers(damaged), [0, 0, 0, 1] * 5, list)


def as_rank(folder: Path) -> None:
    mine = batches({2, 7})
    seen = list(islice(mine(0), 15))
    (folder / f"{rank()}.json").write_text(json.dumps([seen, mine.unread.report("training")]))


def test_every_process_has_its_batches_and_the_same_report(tmp_path: Path):
    run_ranks(2, as_rank, tmp_path)
    seen, reports = zip(*(json.loads((tmp_path / f"{i}.json").read_text()) for i in range(2)), strict=True)
    alone = batches({2, 7})
    together = [first + second for first, second in zip(*seen, strict=True)]
    assert together == list(islice(alone(0), 15)), "the same images as in one process"
    assert all(len(batch) == 4 and not {2, 7} & set(batch) for batch in together)
    assert sorted(reports[0]) == sorted(reports[1]) == ["2 is damaged", "7 is damaged"]


def test_a_group_is_not_left_for_a_substitute():
    for batch in islice(batches({3, 7, 11, 15})(0), 12):
        assert {image % 4 == 3 for image in batch} in ({True}, {False})
        assert all(image == 19 for image in batch if image % 4 == 3)


def test_where_all_of_a_group_is_damaged_the_run_ends():
    with pytest.raises(DataError, match="5 images in a row cannot be read, the last of them: .* is damaged"):
        list(islice(batches({3, 7, 11, 15, 19})(0), 12))
    with pytest.raises(DataError, match=r"^. is damaged$|^1. is damaged$"):
        list(islice(batches({0, 1, 2, 3, 4, 5, 6, 7}, "DATASETS.ON_ERROR", "fail")(0), 12))


def test_without_damage_nothing_is_reported_and_batches_are_the_same_in_both_ways(caplog):
    skipping, failing = batches(set()), batches(set(), "DATASETS.ON_ERROR", "fail")
    assert list(islice(skipping(0), 12)) == list(islice(failing(0), 12))
    assert skipping.unread.report("training") == [] and not caplog.text


def test_an_image_is_named_once(caplog):
    unread = Unread()
    for _ in range(3):
        unread.add([DataError("a is damaged"), DataError("b is damaged")])
    assert caplog.text.count("a is damaged") == 1
    assert unread.report("the test") == ["a is damaged", "b is damaged"]


def test_another_choice_is_refused():
    with pytest.raises(ConfigError, match=r"choose one of fail, skip.*DATASETS\.ON_ERROR = 'ignore'"):
        batches(set(), "DATASETS.ON_ERROR", "ignore")
