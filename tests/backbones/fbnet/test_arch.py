"""Architecture files: what they may hold, where they are found, and what is said of those that cannot be."""

import json
import re
from importlib import metadata
from pathlib import Path

import pytest

from backbones.fbnet.arch import parse_architecture
from backbones.fbnet.find import architecture_of, find_architecture
from registry import BODIES, FBNET_ARCHS, ConfigError, ConvbodyError, UnknownNameError, load_cfg
from registry.config import JSON_KEYS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "fbnet.md"
SEARCHED = ("fbnet_a", "fbnet_b", "fbnet_c", "fbnet_96_035_1", "fbnet_samsung_s8", "fbnet_iphonex")
DETECTION = ("default", "xirb16d_dsmask", "mobilenet_v2", "cham_v1a", "cham_v2")


def cfg_of(*opts, body="FBNet"):
    return load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", body, *opts])


def shipped(name):
    return find_architecture(name, cfg_of())


def test_the_published_ones_ship_and_each_is_a_body():
    assert set(FBNET_ARCHS.names()) >= {*SEARCHED, *DETECTION}
    assert set(BODIES.names("FBNet-*")) >= {f"FBNet-{name}" for name in (*SEARCHED, *DETECTION)}


@pytest.mark.parametrize("name", SEARCHED)
def test_searched_architectures_have_the_published_outline(name):
    blocks = shipped(name).blocks("backbone")
    assert [b.channels for b in blocks] == [16, *[24] * 4, *[32] * 4, *[64] * 4, *[112] * 4, *[184] * 4, 352]
    assert [i for i, b in enumerate(blocks) if b.stride == 2] == [1, 5, 9, 17]
    assert [b.name for b in blocks] == [f"xif{i}_0" for i in range(22)]
    assert shipped(name).first == (16, 2, 3)


def test_searched_architectures_differ_in_their_primitives():
    short = {name: [block.op for block in shipped(name).blocks("backbone")] for name in SEARCHED}
    assert short["fbnet_a"][:3] == ["skip", "ir_k3_e3", "ir_k3_e1"] and short["fbnet_a"][11] == "ir_k5_s2"
    assert short["fbnet_c"].count("skip") == 1 and short["fbnet_c"][-1] == "ir_k3_e6"
    assert short["fbnet_96_035_1"].count("skip") == 12
    assert len({tuple(ops) for ops in short.values()}) == 6


@pytest.mark.parametrize("name", DETECTION)
def test_detection_architectures_stop_at_stride_16(name):
    architecture = shipped(name)
    stride = architecture.first[1]
    for block in architecture.blocks("backbone"):
        stride *= block.stride
    assert stride == 16 and architecture.blocks("bbox") and architecture.last == 0
    assert bool(architecture.blocks("rpn")) == (name != "mobilenet_v2")
    assert bool(architecture.blocks("mask")) == (name in ("default", "xirb16d_dsmask"))


def published_form(definition):
    """As in the published code: all but the primitives under block_cfg, ``last`` with a scale."""
    flat = {**definition, "last": [0, 0.0]}
    return {"block_op_type": flat.pop("block_op_type"), "block_cfg": flat}


@pytest.mark.parametrize("form", [lambda tiny: tiny, published_form])
@pytest.mark.parametrize("text", [json.dumps, lambda value: value])
def test_it_may_stand_in_the_config(tiny, write, form, text):
    inline = {"MODEL": {"FBNET": {"ARCH": "mine", "ARCH_DEF": text(form(tiny))}}}
    config = write({"MODEL": {"BACKBONE": {"CONV_BODY": "FBNet"}, **inline["MODEL"]}}, "run.yaml")
    wanted = parse_architecture(tiny, "mine", str)
    cfg = load_cfg(config)
    assert architecture_of(cfg) == wanted
    opts = ["MODEL.FBNET.ARCH", "mine", "MODEL.FBNET.ARCH_DEF", text(form(tiny))]
    assert architecture_of(cfg_of(*opts)) == wanted
    saved = write(cfg.dump(), "saved.yaml")
    assert architecture_of(load_cfg(saved)) == wanted


def test_only_keys_of_json_take_mappings():
    assert "MODEL.FBNET.ARCH_DEF" in JSON_KEYS
    with pytest.raises(ConfigError, match=r"MODEL\.FBNET\.ARCH .*takes a string"):
        cfg_of("MODEL.FBNET.ARCH", {"first": [8, 2]})


def test_a_file_beside_the_config_or_in_the_working_directory(tiny, write, tmp_path, monkeypatch):
    write(tiny, "archs/mine.yaml")
    config = write("MODEL: {BACKBONE: {CONV_BODY: FBNet}, FBNET: {ARCH: archs/mine.yaml}}", "run.yaml")
    found = architecture_of(load_cfg(config))
    assert found == parse_architecture(tiny, "", str) and str(tmp_path) in found.where
    monkeypatch.chdir(tmp_path)
    assert architecture_of(cfg_of("MODEL.FBNET.ARCH", "archs/mine.yaml")) == found
    with pytest.raises(
        ConfigError, match=r"archs/yours\.yaml does not exist, neither beside.*MODEL\.FBNET\.ARCH = "
    ):
        architecture_of(cfg_of("MODEL.FBNET.ARCH", "archs/yours.yaml"))


def test_a_folder_of_files(tiny, write, tmp_path):
    write(tiny, "archs/my_search_01.yaml")
    folder = ["MODEL.FBNET.ARCH_DIRS", [str(tmp_path / "archs")]]
    found = architecture_of(cfg_of("MODEL.FBNET.ARCH", "my_search_01", *folder))
    assert found == architecture_of(cfg_of(*folder, body="FBNet-my_search_01-FPN"))
    with pytest.raises(UnknownNameError, match="'my_search_1'.*nearest: my_search_01"):
        architecture_of(cfg_of(*folder, body="FBNet-my_search_1-FPN"))
    with pytest.raises(ConfigError, match=r"nowhere does not exist.*ARCH_DIRS"):
        architecture_of(cfg_of("MODEL.FBNET.ARCH_DIRS", ("nowhere",)))


def test_an_entry_point_of_a_distribution(tiny, write, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    write(
        f"from pathlib import Path\nONE = {tiny!r}\nTWO = Path(__file__).parent / 'two.yaml'\n", "myarchs.py"
    )
    write(tiny, "two.yaml")
    group = "[convbody.fbnet_archs]\none = myarchs:ONE\ntwo = myarchs:TWO\n"
    write("Metadata-Version: 2.1\nName: myarchs\nVersion: 1.0\n", "myarchs-1.0.dist-info/METADATA")
    write(group, "myarchs-1.0.dist-info/entry_points.txt")
    assert any(point.name == "one" for point in metadata.distribution("myarchs").entry_points)
    fresh = type(FBNET_ARCHS)("FBNet architecture")
    fresh.group, fresh._entry_points_read = FBNET_ARCHS.group, False
    from registry import plugins

    plugins._installed.cache_clear()
    monkeypatch.setattr("backbones.fbnet.find.FBNET_ARCHS", fresh)
    try:
        one, two = (find_architecture(name, cfg_of()) for name in ("one", "two"))
    finally:
        monkeypatch.undo()
        plugins._installed.cache_clear()
    assert one == two == parse_architecture(tiny, "", str)


def test_one_name_for_two_architectures(tiny, write, tmp_path):
    write(tiny, "archs/default.yaml")
    folder = ["MODEL.FBNET.ARCH_DIRS", [str(tmp_path / "archs")]]
    with pytest.raises(
        ConfigError, match=r"'default' and differ, at .*archs/default\.yaml:1 and at .*rename one"
    ):
        architecture_of(cfg_of(*folder))
    with pytest.raises(
        ConfigError, match="'default' and differ, at MODEL.FBNET.ARCH_DEF, set on the command"
    ):
        architecture_of(cfg_of("MODEL.FBNET.ARCH_DEF", tiny))
    write(tiny, "archs/mine.yaml")
    same = architecture_of(cfg_of(*folder, "MODEL.FBNET.ARCH", "mine", "MODEL.FBNET.ARCH_DEF", tiny))
    assert same.where.startswith("MODEL.FBNET.ARCH_DEF")


def test_a_body_and_a_key_that_name_different_ones():
    with pytest.raises(ConfigError, match=r"FBNet-default is another architecture.*ARCH = 'cham_v2'"):
        architecture_of(cfg_of("MODEL.FBNET.ARCH", "cham_v2", body="FBNet-default-FPN"))


LINES = """first: [8, 2]
stages:
  - [[1, 8, 1, 1]]
  - - [2, 16, 2, 2]
    - [2, 24, 1, 1]
block_op_type:
  - [ir_k3]
  - - ir_k3
    - ir_k3
    - ir_k5_e3
backbone: [0, 1]
"""


@pytest.mark.parametrize(
    ("there", "here", "line", "message"),
    [
        ("    - ir_k5_e3", "    - ir_k5_e2", 10, "'ir_k5_e2'.*nearest: ir_k5_"),
        ("    - ir_k5_e3", "    - 5", 10, "no FBNet primitive is called '5'"),
        (
            "[2, 24, 1, 1]",
            "[2, 24, 1, 3]",
            10,
            "the stride of ir_k5_e3 cannot be 3, only -4, -2, -1, 1, 2, 4",
        ),
        ("[2, 24, 1, 1]\n", "[2, 24, 1]\n", 5, r"a row is \[expansion, channels, repeats, stride\]"),
        ("[2, 24, 1, 1]", "[2, 0, 1, 1]", 5, r"channels and repeats: positive whole numbers, not \[0, 1\]"),
        ("[2, 24, 1, 1]", "[2, 24.5, 1, 1]", 5, "positive whole numbers"),
        ("[2, 24, 1, 1]", "[-1, 24, 1, 1]", 5, "an expansion is a positive number, not -1"),
        ("[2, 24, 1, 1]", "[2, 24, 2, 1]", 8, "stage 1 has 4 blocks, but block_op_type has 3 primitives"),
        ("  - [ir_k3]\n", "", 6, "there are 2 stages, but block_op_type is for 1"),
        ("  - [ir_k3]\n", "  - ir_k3\n", 7, "stage 0 has 1 blocks, but block_op_type has 'ir_k3'"),
        ("first: [8, 2]", "first: [8]", 1, "channels and stride and kernel size"),
        ("first: [8, 2]", "first: [8, 3]", 1, "the stride cannot be 3, only 1, 2, 4"),
        ("first:", "frist:", 1, "there is no key 'frist'; nearest: first"),
        ("backbone: [0, 1]", "backbone: [0, 2]", 11, r"backbone has \[0, 2\], but the stages are 0 to 1"),
        ("backbone: [0, 1]", "backbone: [0]", 4, "stage 1 is in none of backbone"),
        ("backbone: [0, 1]", "backbone: [1, 0]", 11, "once each, in their order"),
        ("backbone: [0, 1]", "backbone: 2", 11, "a list of numbers of stages"),
        ("backbone: [0, 1]", "last: wide", 11, "last is a number of channels"),
        ("backbone: [0, 1]", "first: [8, 2]", 11, "first is given twice, first at line 1"),
        ("backbone: [0, 1]", "rpn_stride: 0", 11, "rpn_stride: positive whole numbers"),
        ("backbone: [0, 1]", "provenance: mine", 11, "provenance is a mapping"),
        ("stages:", "stages: [", 3, "not valid YAML"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(write, there, here, line, message):
    assert there in LINES
    path = write(LINES.replace(there, here, 1))
    with pytest.raises(ConvbodyError, match=message) as caught:
        find_architecture(str(path), cfg_of())
    text = str(caught.value)
    assert "\n" not in text and re.search(rf"tiny\.yaml:{line}\b", text), text


def test_a_file_is_a_mapping(write, tmp_path):
    for content in ("[1, 2]", "", "block_cfg: 5"):
        with pytest.raises(ConfigError, match=r"an architecture is a mapping.*tiny\.yaml"):
            find_architecture(str(write(content)), cfg_of())
    (tmp_path / "tiny.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        find_architecture(str(tmp_path / "tiny.yaml"), cfg_of())
    with pytest.raises(ConfigError, match="stages is a list, and has to be there"):
        find_architecture(str(write("first: [8, 2]")), cfg_of())


@pytest.mark.parametrize(
    ("definition", "message"),
    [("{", "ARCH_DEF.*is not JSON"), ("[1]", "an architecture is a mapping"), ("{}", "first is a list")],
)
def test_mistakes_in_line_say_the_key(definition, message):
    with pytest.raises(ConfigError, match=message) as caught:
        architecture_of(cfg_of("MODEL.FBNET.ARCH_DEF", definition))
    assert "MODEL.FBNET.ARCH_DEF" in str(caught.value) and "command line" in str(caught.value)


def test_without_backbone_the_trunk_is_all_but_the_last_stage(tiny):
    del tiny["backbone"]
    assert parse_architecture(tiny, "", str).parts["backbone"] == (0, 1, 2, 3, 4)


def test_provenance_is_kept_and_makes_no_difference(tiny):
    plain = parse_architecture(tiny, "a", str)
    found = parse_architecture({**tiny, "provenance": {"seed": 3}}, "b", str)
    assert found == plain and found.provenance == {"seed": 3}


def test_the_file_in_the_documentation_is_one(write):
    (example,) = re.findall(r"```yaml\n(first:.*?)```", PAGE.read_text(), re.DOTALL)
    found = find_architecture(str(write(example)), cfg_of())
    assert [len(found.blocks(part)) for part in ("backbone", "bbox")] == [8, 2]
