import re
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import Config, ConfigError, ConvbodyError, UnknownKeyError, get_cfg, load_cfg, lookup, source_of
from registry import config as config_module
from registry.merge import coerce, dotted_keys, merge_options
from registry.registries import NORMS


@pytest.fixture
def write(tmp_path):
    def write_file(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    return write_file


def test_defaults_are_the_published_ones():
    cfg = get_cfg()
    assert cfg.MODEL.BACKBONE.CONV_BODY == "R-50-C4"
    assert cfg.MODEL.BACKBONE.FREEZE_CONV_BODY_AT == 2
    assert load_cfg(None) == cfg


def test_file_then_options(write):
    path = write("a.yaml", "SOLVER:\n  BASE_LR: 0.5\n  MAX_ITER: 10\n")
    cfg = load_cfg(path, ["SOLVER.MAX_ITER", 20])
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER) == (0.5, 20)
    assert source_of(cfg, "SOLVER.BASE_LR") == f"{path}:2"
    assert source_of(cfg, "SOLVER.MAX_ITER") == "command line"
    assert source_of(cfg, "SOLVER.MOMENTUM") == "default"
    assert source_of(cfg.clone(), "SOLVER.BASE_LR") == f"{path}:2"


def test_base_files_are_merged_first_and_are_relative_to_the_file(write):
    write("base/root.yaml", "SOLVER: {BASE_LR: 1, MAX_ITER: 1, MOMENTUM: 0.5}")
    write("base/middle.yaml", "_BASE_: root.yaml\nSOLVER: {BASE_LR: 2, MAX_ITER: 2}")
    cfg = load_cfg(write("top.yaml", "_BASE_: [base/middle.yaml]\nSOLVER: {BASE_LR: 3}"))
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.SOLVER.MOMENTUM) == (3.0, 2, 0.5)


def test_base_circle_and_missing_base_are_errors(write):
    write("a.yaml", "_BASE_: b.yaml")
    with pytest.raises(ConfigError, match="circle"):
        load_cfg(write("b.yaml", "_BASE_: a.yaml"))
    with pytest.raises(ConfigError, match=r"gone\.yaml.*c\.yaml:2"):
        load_cfg(write("c.yaml", "# comment\n_BASE_: gone.yaml\n"))


def test_conv_body_of_a_base_file_decides_the_family(write):
    write("base.yaml", "MODEL: {BACKBONE: {CONV_BODY: timm/resnet18-FPN}}")
    cfg = load_cfg(write("top.yaml", "_BASE_: base.yaml"))
    assert cfg.MODEL.BACKBONE.FREEZE_CONV_BODY_AT == 0, "only ResNets freeze unless told to"
    assert (
        load_cfg(
            write("r.yaml", "MODEL: {BACKBONE: {CONV_BODY: R-50-FPN}}")
        ).MODEL.BACKBONE.FREEZE_CONV_BODY_AT
        == 2
    )


def test_what_the_file_sets_wins_over_the_family(write):
    path = write("a.yaml", "MODEL: {BACKBONE: {CONV_BODY: timm/resnet18-FPN, FREEZE_CONV_BODY_AT: 3}}")
    assert load_cfg(path).MODEL.BACKBONE.FREEZE_CONV_BODY_AT == 3
    assert load_cfg(path, ["MODEL.BACKBONE.CONV_BODY", "R-50-C4"]).MODEL.BACKBONE.FREEZE_CONV_BODY_AT == 3


def test_longest_family_pattern_has_the_last_word(monkeypatch):
    monkeypatch.setattr(config_module, "_FAMILY_DEFAULTS", {})
    config_module.family_defaults("R-50*", {"SOLVER.MAX_ITER": 2})
    config_module.family_defaults("R-*", {"SOLVER.MAX_ITER": 1, "SOLVER.BASE_LR": 9.0})
    assert get_cfg("R-50-FPN").SOLVER.MAX_ITER == 2
    assert get_cfg("R-101-FPN").SOLVER.MAX_ITER == 1
    assert get_cfg("R-50-FPN").SOLVER.BASE_LR == 9.0


@pytest.mark.parametrize("key", ["SOLVER.MAX_ITR", "SOLVR.MAX_ITER", "SOLVER.MAX_ITER.DEEPER", "NOWHERE"])
def test_family_defaults_of_an_unknown_key_are_named(monkeypatch, key):
    monkeypatch.setattr(config_module, "_FAMILY_DEFAULTS", {})
    config_module.family_defaults("R-50*", {key: 1})
    with pytest.raises(ConfigError, match=rf"R-50\*.*{key}"):
        get_cfg("R-50-FPN")


def test_changing_one_config_leaves_the_next_alone():
    first = get_cfg("timm/resnet18-FPN")
    first.INPUT.PIXEL_MEAN[0] = 7.0
    assert get_cfg("timm/resnet18-FPN").INPUT.PIXEL_MEAN[0] != 7.0


@pytest.mark.parametrize(
    "text, line, words",
    [
        ("SOLVER:\n  BASE_LRR: 1\n", 2, ["SOLVER.BASE_LRR", "SOLVER.BASE_LR"]),
        ("SOLVER:\n\n  BASE_LR: fast\n", 3, ["SOLVER.BASE_LR", "number", "'fast'"]),
        ("MODEL:\n  BACKBONE:\n    CONV_BODY: R-50-FPM\n", 3, ["FPM", "FPN"]),
        ("MODEL:\n  RESNETS: 3\n", 2, ["MODEL.RESNETS", "section"]),
        ("SOLVER:\n  STEPS: 3\n", 2, ["SOLVER.STEPS", "sequence"]),
        ("SOLVER:\n  STEPS: [a]\n", 2, ["SOLVER.STEPS", "number"]),
        ("SOLVER:\n  MAX_ITER: 1.5\n", 2, ["SOLVER.MAX_ITER", "an int"]),
        ("MODEL:\n  MASK_ON: 1\n", 2, ["MODEL.MASK_ON", "True or False"]),
        ("A: [1\nB: 2\n", 2, ["not valid YAML"]),
        ("MODEL:\n  MASK_ON:\n", 2, ["MODEL.MASK_ON", "None"]),
    ],
)
def test_mistakes_name_key_file_and_line(write, text, line, words):
    path = write("mistake.yaml", text)
    with pytest.raises(ConvbodyError) as error:
        load_cfg(path)
    message = str(error.value)
    assert f"{path}:{line}" in message
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_a_key_given_twice_counts_the_last_time_and_is_said(write, caplog):
    path = write("twice.yaml", "SOLVER: {MAX_ITER: 1, BASE_LR: 5.0}\nSOLVER: {MAX_ITER: 2}\n")
    cfg = load_cfg(path)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR) == (2, load_cfg(None).SOLVER.BASE_LR)
    assert f"{path}:2: SOLVER" in caplog.text and f"{path}:1" in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "OUTPUT_DIR: out\nMODEL: &model {RPN: *model}\n",
        "OUTPUT_DIR: out\nMODEL: &model\n  <<: *model\n",
        "OUTPUT_DIR: out\nDATASETS: {TRAIN: &names [a, [*names]]}\n",
    ],
)
def test_an_alias_of_what_it_stands_in_is_refused(write, text):
    with pytest.raises(ConfigError, match=r"circle\.yaml:2: what begins here holds an alias of itself"):
        load_cfg(write("circle.yaml", text))


def test_an_alias_may_be_used_twice(write):
    text = "INPUT: {MIN_SIZE_TRAIN: &size [64], JITTER_ORDER: *size}\nDATASETS: {TRAIN: *size}"
    assert load_cfg(write("twice.yaml", text)).INPUT.MIN_SIZE_TRAIN == (64,)


def test_unreadable_files_are_named(tmp_path, write):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_cfg(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="mapping"):
        load_cfg(write("list.yaml", "- 1\n- 2\n"))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.yaml"):
        load_cfg(tmp_path / "binary.yaml")
    with pytest.raises(ConfigError, match=r"control\.yaml") as error:
        load_cfg(write("control.yaml", "A: \x01\n"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_a_file_without_keys_changes_nothing(write, text):
    assert load_cfg(write("empty.yaml", text)) == load_cfg(None)


def test_options_come_in_pairs():
    with pytest.raises(ConfigError, match=r"SOLVER\.MAX_ITER"):
        load_cfg(None, ["SOLVER.MAX_ITER"])
    with pytest.raises(UnknownKeyError, match="command line"):
        load_cfg(None, ["SOLVER.MAX_ITR", 3])
    with pytest.raises(KeyError):
        load_cfg(None, ["NO.SUCH.KEY", 3])


numbers = st.integers(-100, 100) | st.floats(allow_nan=False, allow_infinity=False)


@given(st.booleans() | numbers | st.text() | st.lists(numbers) | st.lists(numbers).map(tuple))
def test_a_value_of_the_defaults_type_is_kept(value):
    assert coerce("KEY", value, value, "default") == value


@given(st.lists(numbers, min_size=1))
def test_text_is_read_as_a_literal_and_sequences_interchange(values):
    assert coerce("KEY", str(values), (0.5,), "command line") == tuple(values)
    assert coerce("KEY", str(tuple(values)), [0.5], "command line") == values


@given(st.integers())
def test_an_int_serves_as_a_float_but_not_the_other_way(value):
    assert isinstance(coerce("KEY", value, 0.5, "default"), float)
    with pytest.raises(ConfigError):
        coerce("KEY", value + 0.5 if abs(value) < 1e9 else 0.5, 1, "default")


@given(st.sampled_from(dotted_keys(get_cfg())), st.data())
def test_any_one_letter_typo_in_a_key_is_an_unknown_key(key, data):
    position = data.draw(st.integers(0, len(key) - 1))
    typo = key[:position] + "~" + key[position + 1 :]
    with pytest.raises(ConfigError) as error:
        merge_options(get_cfg(), [typo, 1])
    assert typo in str(error.value)


def test_a_string_key_keeps_text_that_looks_like_a_number():
    assert load_cfg(None, ["OUTPUT_DIR", "2024"]).OUTPUT_DIR == "2024"


def test_truth_values_are_read_as_python_and_yaml_spell_them():
    for text, value in (("True", True), ("true", True), ("False", False), ("false", False)):
        assert load_cfg(None, ["MODEL.MASK_ON", text]).MODEL.MASK_ON is value


def test_free_form_keys_take_any_mapping(write):
    path = write("a.yaml", "DATASETS:\n  CATALOG:\n    mine: {image_dir: a, ann_file: b.json}\n")
    cfg = load_cfg(path, ["DATASETS.CATALOG.mine.ann_file", "c.json"])
    assert cfg.DATASETS.CATALOG.mine == {"image_dir": "a", "ann_file": "c.json"}
    assert source_of(cfg, "DATASETS.CATALOG.mine.image_dir") == f"{path}:3"


@pytest.mark.parametrize(
    "value", [{"drop_rate": 0.5, "nested": {"a": 1}}, "{'drop_rate': 0.5, 'nested': {'a': 1}}"]
)
def test_a_free_form_section_is_set_whole_by_options(value):
    cfg = load_cfg(None, ["MODEL.TIMM.KWARGS.before", 1, "MODEL.TIMM.KWARGS", value])
    assert cfg.MODEL.TIMM.KWARGS == {"before": 1, "drop_rate": 0.5, "nested": {"a": 1}}
    assert source_of(cfg, "MODEL.TIMM.KWARGS") == "command line"
    with pytest.raises(ConfigError, match=r"MODEL\.TIMM\.KWARGS .* takes a mapping, not 'fast'"):
        load_cfg(None, ["MODEL.TIMM.KWARGS", "fast"])


def test_sections_may_share_a_node_but_not_a_key(monkeypatch):
    monkeypatch.setattr(config_module, "_SECTIONS", dict(config_module._SECTIONS))

    @config_module.config_section("MODEL.MINE")
    def mine():
        return {"WIDTH": 1, "DEEP": {"ER": (1, 2)}, "FREE": Config(new_allowed=True)}

    cfg = get_cfg()
    assert (cfg.MODEL.MINE.WIDTH, cfg.MODEL.MINE.DEEP.ER) == (1, (1, 2))

    @config_module.config_section("MODEL")
    def again():
        return {"MINE": {"WIDTH": 3}}

    with pytest.raises(ConfigError) as error:
        get_cfg()
    assert len(re.findall(r"test_config\.py:\d+", str(error.value))) == 2


def test_lookup_says_key_file_and_line(write):
    path = write("a.yaml", "MODEL:\n  RESNETS:\n    STEM_FUNC: GM\n")
    with pytest.raises(ConvbodyError) as error:
        lookup(NORMS, load_cfg(path), "MODEL.RESNETS.STEM_FUNC")
    assert f"MODEL.RESNETS.STEM_FUNC = 'GM', set in {path}:3" in str(error.value)


def test_dump_and_read_back(write):
    cfg = load_cfg(None, ["SOLVER.STEPS", (1, 2), "MODEL.BACKBONE.CONV_BODY", "R-50-FPN"])
    assert load_cfg(write("dump.yaml", cfg.dump())) == cfg
