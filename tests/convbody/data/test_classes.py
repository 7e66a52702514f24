"""Classes by their names."""

import pytest

from convbody.data.classes import check_known, check_same, distinct_names, labels_by_name, listed
from registry import ConfigError, load_cfg


def test_a_name_that_several_ids_have_is_followed_by_the_id():
    assert distinct_names({5: "crane", 2: "fox", 9: "crane"}) == {5: "crane (5)", 2: "fox", 9: "crane (9)"}


def test_a_list_is_one_line_however_long_and_odd_the_names_are():
    assert listed(["red\nhat", None, "blue"]) == "red hat, blue"
    assert listed([]) == "none"
    many = listed([f"class {number}" for number in range(200)])
    assert many.startswith("class 0, class 1, ") and many.endswith("class 19, ... (200 classes)")


def test_labels_count_from_the_first_and_skip_those_of_no_class():
    assert labels_by_name(("red", None, "blue"), 1) == {"red": 1, "blue": 3}


@pytest.mark.parametrize("own", [["blue", "red"], ["red"], []])
def test_fewer_classes_are_known_in_any_order(own):
    check_known(own, ("red", None, "blue"), "the test set", "best.pth", "DATASETS.TEST", load_cfg(None))


def test_what_differs_is_named_with_both_lists_and_the_key():
    cfg = load_cfg(None)
    words = r"the set has the classes red, green, and best.pth red, blue, without green; .*DATASETS.TEST"
    with pytest.raises(ConfigError, match=words):
        check_known(["red", "green"], ("red", "blue"), "the set", "best.pth", "DATASETS.TEST", cfg)
    with pytest.raises(
        ConfigError, match="the set has the classes red, and best.pth red, blue, with blue, too"
    ):
        check_same(["red"], ("red", "blue"), "the set", "best.pth", "DATASETS.TRAIN", cfg)
    check_same(["blue", "red"], ("red", "blue"), "the set", "best.pth", "DATASETS.TRAIN", cfg)
