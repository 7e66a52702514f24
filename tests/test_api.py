"""The page that lists the public interface tells the truth."""

import re
from importlib import import_module
from pathlib import Path

import pytest

import registry

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "api.md").read_text()
NAMES = re.findall(r"^\| `([\w.]+)` \|", PAGE, re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_exists_and_explains_itself(name):
    module, _, attribute = name.rpartition(".")
    thing = getattr(import_module(module), attribute)
    assert isinstance(thing, registry.Registry) or thing.__doc__, "a public name says what it does"


@pytest.mark.parametrize("program", re.findall(r"`(tools/\w+\.py)`", PAGE))
def test_a_program_exists(program):
    assert (ROOT / program).is_file()


def test_the_page_lists_every_registry_of_backbones():
    listed = {name.rpartition(".")[2] for name in NAMES}
    assert {name for name in registry.__all__ if name.isupper() and name != "REGISTRIES"} <= listed
