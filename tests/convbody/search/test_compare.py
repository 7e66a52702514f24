"""A search beside chance, and the page that says which is ahead."""

import random
import re

import pytest

from convbody.search import compare as module
from convbody.search.compare import Match, Trained, as_quick, compare, verdict
from convbody.search.latency import latencies
from convbody.search.page import write_page
from convbody.search.space import space_from_cfg
from convbody.search.train import search
from registry import ConfigError, ConvbodyError


def match(seed, searched, *randoms):
    def trained(top1):
        return Trained(("skip",), 100.0, top1)

    return Match(seed, trained(searched), tuple(map(trained, randoms)))


def test_the_lead_is_over_the_median():
    assert match(0, 0.9, 0.1, 0.8, 0.85).lead == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("matches", "ahead"),
    [
        ([match(0, 0.9, 0.8), match(1, 0.9, 0.8)], True),
        ([match(0, 0.9, 0.8), match(1, 0.7, 0.8)], False),
        ([match(0, 0.81, 0.8), match(1, 0.81, 0.8), match(2, 0.7, 0.8)], False),
        ([match(0, 0.8, 0.8)], False),
    ],
)
def test_the_verdict_claims_no_more_than_was_measured(matches, ahead):
    assert verdict(matches).startswith(
        "The searched architectures are ahead" if ahead else "The search does not"
    )


def test_random_rivals_are_as_quick_and_different(search_cfg):
    cfg = search_cfg()
    space = space_from_cfg(cfg)
    table = latencies(cfg, space)
    rivals = as_quick(space, table, 200.0, 4, seed=1)
    assert rivals == as_quick(space, table, 200.0, 4, seed=1)
    assert len(set(rivals)) == 4
    assert all(abs(table.of(space, rival) / 200 - 1) <= 0.03 for rival in rivals)
    chance = [table.of(space, space.random(random.Random(seed))) for seed in range(20)]
    assert any(abs(latency / 200 - 1) > 0.03 for latency in chance)


@pytest.mark.slow
def test_a_search_is_compared_and_written_up(search_cfg, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_TOLERANCE", 1.0)  # the small space has few as quick
    changes = {"SEARCH.SPACE.TRAIN_STRIDES": (2, 1, 2), "SEARCH.TEST_EPOCHS": 0, "SOLVER.MAX_ITER": 2}
    changes |= {"INPUT.PIXEL_MEAN": [0.5] * 3, "INPUT.PIXEL_STD": [0.3] * 3}  # the body is one for colour
    folders = []
    for seed in (0, 1):
        folders.append(str(tmp_path / f"search_{seed}"))
        search(search_cfg(changes | {"SEED": seed, "OUTPUT_DIR": folders[-1]}))
    cfg = search_cfg(changes | {"OUTPUT_DIR": str(tmp_path / "report")})
    matches = compare(cfg, folders, 2)
    assert [len(each.randoms) for each in matches] == [2, 2]
    assert len(list((tmp_path / "report" / "alone").iterdir())) == 6
    assert compare(cfg, folders, 2) == matches  # read, not trained again
    path = tmp_path / "new" / "search.html"
    write_page(cfg, folders, matches, path)
    text = path.read_text()
    assert verdict(matches) in text
    assert text.count("<rect ") == 4 * 4 * 3  # layers, candidates, epochs
    assert text.count("<circle ") == 2 + 2 * 2
    assert re.findall(r'(?:src|href)="(?!data:)', text) == []  # all it shows is in it
    with pytest.raises(ConvbodyError, match="search first"):
        write_page(cfg, [str(tmp_path / "none")], matches, path)


def test_too_few_rivals_are_an_error(search_cfg):
    cfg = search_cfg()
    space = space_from_cfg(cfg)
    with pytest.raises(ConvbodyError, match="only 0 architectures"):
        as_quick(space, latencies(cfg, space), 1.0, 2, seed=0)


def test_nothing_to_compare_on_is_an_error(search_cfg):
    with pytest.raises(ConfigError, match="DATASETS.TEST"):
        compare(search_cfg({"DATASETS.TEST": []}), [], 1)
