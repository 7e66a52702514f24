import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import BACKBONES, BODIES, NECKS, UnknownNameError, parse_conv_body


@given(st.sampled_from(["R-18", "R-50", "R-152", "timm/convnext_tiny", "timm/a-b"]), st.data())
def test_every_body_goes_with_every_neck(body, data):
    neck = data.draw(st.sampled_from([None, *NECKS.names()]))
    parsed = parse_conv_body(body if neck is None else f"{body}-{neck}")
    assert (parsed.body, parsed.neck, parsed.whole) == (body, neck, False)


def test_longest_neck_wins():
    parsed = parse_conv_body("R-50-FPN-RETINANET")
    assert (parsed.body, parsed.neck) == ("R-50", "FPN-RETINANET")


def test_a_name_registered_whole_wins(monkeypatch):
    monkeypatch.setattr(BACKBONES, "_entries", dict(BACKBONES._entries))
    BACKBONES.register("R-50-FPN", object())
    assert parse_conv_body("R-50-FPN").whole


@pytest.mark.parametrize("name, near", [("R50-FPN", "R-50-FPN"), ("r-50-fpn", "R-50-FPN"), ("", "list all")])
def test_unknown_name(name, near):
    with pytest.raises(UnknownNameError) as error:
        parse_conv_body(name, "MODEL.BACKBONE.CONV_BODY, set in a.yaml:2")
    assert near in str(error.value) and "a.yaml:2" in str(error.value)


def test_known_body_with_unknown_neck_lists_the_necks():
    with pytest.raises(UnknownNameError) as error:
        parse_conv_body("R-50-FPM")
    assert all(neck in str(error.value) for neck in NECKS.names())


def test_shipped_names_resolve():
    for registry in (BODIES, NECKS):
        for name in registry.names():
            assert callable(registry[name]), name


@pytest.mark.parametrize("name", ["resnet50", "ResNet-50", "resnet50-FPN"])
def test_a_name_of_another_code_base_proposes_ours_and_timms(name):
    with pytest.raises(UnknownNameError) as error:
        parse_conv_body(name)
    assert "nearest: R-50-FPN, timm/resnet50-FPN" in str(error.value) and "PLUGINS" in str(error.value)


def test_the_names_behind_timm_are_timms():
    timm = pytest.importorskip("timm")
    assert {name.removeprefix("timm/") for name in BODIES.behind("timm/*")} == set(timm.list_models())
