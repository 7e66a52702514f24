"""YAML files that hold anything: one line each, and soon."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry import ConfigError, ConvbodyError, load_cfg

ALIASES = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(12)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("_BASE_: /dev/zero", "larger than 16 MiB"),
        ('_BASE_: "a\\0b"', "null byte"),
        ("_BASE_: " + "x" * 5000, "too long"),
        (ALIASES, "aliases written out"),
        ("SEED: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("SEED: " + "[" * 100 + "]" * 100, "nested too deeply"),
        ("SEED: 2024-13-45", "'2024-13-45' is no valid value"),
        ("SEED: " + "9" * 5000, "no valid value"),
        ("SEED: !!bool x", "no valid value"),
        ("SEED: !!timestamp x", "no valid value"),
        ("SEED: !!python/object:os.system x", "a.yaml:1 cannot be read"),
        ("SEED: [1", "not valid YAML"),
        ("<<: 3", "not valid YAML"),
        ("DATASETS: {CATALOG: {a: {b: [1, 2024-01-01]}}}", "date 2024-01-01"),
        ("MODEL: {BACKBON: {CONV_BODY: R-50-FPN}}", r"nearest: MODEL\.BACKBONE"),
        ("SOVLER: {BASE_LR: 1}", "nearest: SOLVER"),
    ],
)
def test_a_fault_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        load_cfg(tmp_path / "a.yaml")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 6000


@pytest.mark.parametrize("value", ["(" * 5000, "9" * 5000, "[" * 300, "-" * 5000 + "1"])
def test_long_values_of_options_are_refused_and_cut_in_the_message(value: str) -> None:
    with pytest.raises(ConfigError, match="SEED") as caught:
        load_cfg(None, ["SEED", value])
    assert len(str(caught.value)) < 400


def test_a_chain_of_bases_ends(tmp_path: Path) -> None:
    for i in range(80):
        (tmp_path / f"{i}.yaml").write_text(f"_BASE_: {i + 1}.yaml\n")
    with pytest.raises(ConfigError, match="over 50 _BASE_ files"):
        load_cfg(tmp_path / "0.yaml")


PIECES = st.sampled_from(
    [
        "MODEL",
        "SOLVER",
        ":",
        " ",
        "\n",
        "  ",
        "- ",
        "[",
        "]",
        "{",
        "}",
        ",",
        "&a",
        "*a",
        "!!",
        "int",
        "2024-01-01",
    ]
    + [
        "_BASE_",
        "<<",
        "'",
        '"',
        "~",
        "$X",
        "1e3",
        "null",
        "\t",
        "é",
        "\\",
        "|",
        ">",
        "?",
        "%",
        "@",
        "#",
        "SEED",
    ]
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PIECES, max_size=30).map("".join))
def test_any_text_is_a_config_or_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    try:
        load_cfg(tmp_path / "a.yaml")
    except ConvbodyError as error:
        assert "\n" not in str(error)
