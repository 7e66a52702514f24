import re
import sys
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import DuplicateNameError, Registry, UnknownNameError

names = st.text(st.characters(min_codepoint=45, max_codepoint=122, blacklist_characters="*?[]"), min_size=1)


@given(st.dictionaries(names, st.integers()))
def test_every_registered_name_gives_its_thing_and_is_listed(things):
    registry = Registry("number")
    for name, thing in things.items():
        registry.register(name, thing)
    assert {name: registry[name] for name in registry} == things
    assert registry.names() == sorted(things)
    assert len(registry) == len(things)


@given(st.sets(names, min_size=1), st.data())
def test_a_name_can_be_registered_only_once(taken, data):
    registry = Registry("number")
    for name in taken:
        registry.register(name, 1)
    again = data.draw(st.sampled_from(sorted(taken)))
    with pytest.raises(DuplicateNameError):
        registry.register(again, 2)
    assert registry[again] == 1


def test_duplicate_error_gives_both_places():
    registry = Registry("norm")
    registry.register("GN", 1)
    with pytest.raises(DuplicateNameError) as error:
        registry.register("GN", 2)
    lines = [int(line) for line in re.findall(rf"{re.escape(__file__)}:(\d+)", str(error.value))]
    assert lines[1] - lines[0] == 2


def test_decorator_returns_the_class_and_registers_aliases():
    registry = Registry("stem")

    @registry.register("Stem", aliases=["StemWithFixedBatchNorm"])
    class Stem:
        """A stem."""

    assert registry["Stem"] is registry["StemWithFixedBatchNorm"] is Stem
    assert registry.names() == ["Stem"], "an alias is not listed as another thing"
    assert "StemWithFixedBatchNorm" in registry


def test_an_alias_is_taken_like_a_name():
    registry = Registry("stem")
    registry.register("a", 1, aliases=["b"])
    with pytest.raises(DuplicateNameError):
        registry.register("b", 2)
    with pytest.raises(DuplicateNameError):
        registry.register("c", 3, aliases=["a"])
    assert "c" not in registry, "a refused registration leaves nothing behind"


def test_unknown_name_lists_the_nearest_the_origin_and_the_command():
    registry = Registry("norm", listing="python -m registry norms")
    registry.register("FrozenBN", 1)
    registry.register("GN", 2)
    with pytest.raises(UnknownNameError) as error:
        registry.get("frozenbn2", origin="MODEL.FPN.NORM = 'frozenbn2', set in a.yaml:3")
    message = str(error.value)
    assert "FrozenBN" in message and "a.yaml:3" in message and "python -m registry norms" in message
    assert "\n" not in message
    assert isinstance(error.value, KeyError), "code that expects a mapping keeps working"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes importable modules under names that no other test uses."""
    monkeypatch.syspath_prepend(str(tmp_path))
    written = []

    def write(name, source):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        written.append(name)

    yield write
    for name in written:
        sys.modules.pop(name, None)


def test_lazy_imports_nothing_until_asked(package):
    package("lazy_target_a", "thing = object()")
    registry = Registry("thing")
    registry.lazy("a", "lazy_target_a:thing", "alias")
    assert "a" in registry and registry.names() == ["a"]
    assert "lazy_target_a" not in sys.modules
    assert registry["a"] is registry["alias"] is sys.modules["lazy_target_a"].thing


def test_lazy_module_registers_its_own_names(package, monkeypatch):
    registry = Registry("thing")
    monkeypatch.setitem(sys.modules, "lazy_target_registry", type(sys)("lazy_target_registry"))
    sys.modules["lazy_target_registry"].registry = registry
    package(
        "lazy_target_b",
        """
        from lazy_target_registry import registry
        registry.register("b", 7)
        """,
    )
    registry.lazy("b", "lazy_target_b")
    assert registry["b"] == 7


def test_a_lazy_name_is_not_free_for_others(package):
    package("lazy_target_c", "thing = 1")
    registry = Registry("thing")
    registry.lazy("c", "lazy_target_c:thing")
    with pytest.raises(DuplicateNameError):
        registry.register("c", 2)


def test_open_ended_name_serves_what_its_pattern_matches_and_the_longest_wins():
    registry = Registry("body")
    registry.register("timm/*", "any".upper().encode())
    registry.register("timm/res*", b"res")
    registry.register("timm/resnet18", b"exact")
    assert registry["timm/vgg11"] == b"ANY"
    assert registry["timm/resnet50"] == b"res"
    assert registry["timm/resnet18"] == b"exact"
    assert "other/resnet18" not in registry


def test_pattern_listing():
    registry = Registry("body")
    for name in ("R-50", "R-101", "TResNet-M"):
        registry.register(name, 1)
    assert registry.names("R-*") == ["R-101", "R-50"]
    assert registry.names("X*") == []


def test_find_gives_file_line_and_summary_without_importing(package, tmp_path):
    package(
        "lazy_target_d",
        '''
        import a_module_that_does_not_exist

        class Body:
            """The summary.

            More.
            """
        ''',
    )
    registry = Registry("body")
    registry.lazy("d", "lazy_target_d:Body")
    found = registry.find("d")
    assert (found.file, found.line, found.summary) == (str(tmp_path / "lazy_target_d.py"), 4, "The summary.")


def test_find_of_registered_things():
    registry = Registry("body")

    @registry.register("f")
    def build():
        """Builds."""

    registry.register("data", (1, 2))
    assert registry.find("f").summary == "Builds." and registry.find("f").file == __file__
    assert registry.find("data").file == __file__ and registry.find("data").line > registry.find("f").line


@pytest.mark.parametrize("name", ["", 3, None])
def test_a_name_is_needed(name):
    with pytest.raises(TypeError, match="under a name"):
        Registry("norm").register(name, 1)


def test_a_decorator_without_parentheses_is_refused():
    registry = Registry("norm")
    with pytest.raises(TypeError, match="under a name"):

        @registry.register
        class Forgot:
            pass


@pytest.mark.parametrize("thing", ["a string", None, 0, ()])
def test_any_object_can_be_registered(thing):
    registry = Registry("setting")
    assert registry.register("name", thing) is thing
    assert registry["name"] is thing
    assert registry.names() == ["name"]
