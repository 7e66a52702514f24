import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest

from registry import BODIES, DuplicateNameError, PluginError, load_cfg, parse_conv_body, plugins
from registry.core import Registry

PLUGIN = """
from registry import BODIES, config_section, family_defaults

@config_section("MODEL.{NAME}")
def defaults():
    return {{"WIDTH": 8}}

family_defaults("{name}*", {{"SOLVER.BASE_LR": 0.25}})

@BODIES.register("{name}")
def build(cfg):
    "Builds {name}."
"""


def plugin(name):
    return PLUGIN.format(name=name, NAME=name.upper())


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """Makes distributions appear as installed: ``add(name, entry_points.txt, modules)``."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    entries = {name: replace(entry) for name, entry in BODIES._entries.items()}
    monkeypatch.setattr(BODIES, "_entries", entries)
    plugins._installed.cache_clear()
    plugins.load_plugin_modules.cache_clear()
    before = set(sys.modules)

    def add(distribution, entry_points, **modules):
        info = site / f"{distribution}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(textwrap.dedent(entry_points))
        for name, source in modules.items():
            (site / f"{name}.py").write_text(textwrap.dedent(source))
        BODIES._entry_points_read = False
        plugins._installed.cache_clear()
        plugins.load_plugin_modules.cache_clear()

    yield add
    for name in set(sys.modules) - before:
        del sys.modules[name]
    plugins._installed.cache_clear()
    plugins.load_plugin_modules.cache_clear()
    BODIES._entry_points_read = False


def test_entry_point_brings_its_body_section_and_defaults(environment):
    environment("ep-one", "[convbody.bodies]\nEpOne = ep_one:build\n", ep_one=plugin("EpOne"))
    assert "EpOne" in BODIES.names() and "ep_one" not in sys.modules, "listing imports nothing"
    cfg = load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", "EpOne-FPN", "MODEL.EPONE.WIDTH", 16])
    assert cfg.MODEL.EPONE.WIDTH == 16 and cfg.SOLVER.BASE_LR == 0.25
    assert BODIES.find("EpOne").summary == "Builds EpOne."


def test_entry_point_that_names_a_module_may_register_any_name(environment):
    environment("ep-two", "[convbody.backbones]\nanything = ep_two\n", ep_two=plugin("EpTwo"))
    assert parse_conv_body("EpTwo-FPN").body == "EpTwo"


def test_broken_plugin_is_reported_by_distribution_and_breaks_nothing_else(environment):
    environment(
        "ep-broken", "[convbody.bodies]\nEpBroken = ep_broken:build\n", ep_broken="import no_such_module"
    )
    with pytest.raises(PluginError) as error:
        load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", "EpBroken-FPN"])
    assert "ep-broken 1.0" in str(error.value) and "no_such_module" in str(error.value)
    assert load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", "R-50-FPN"]).MODEL.BACKBONE.CONV_BODY == "R-50-FPN"
    assert "EpBroken" in BODIES.names()


def test_broken_plugin_module_is_reported_when_a_name_is_missing(environment):
    environment("ep-bad", "[convbody.bodies]\nall = ep_bad\n", ep_bad="1 / 0")
    with pytest.warns(UserWarning, match=r"ep-bad 1\.0.*ZeroDivisionError"), pytest.raises(KeyError):
        parse_conv_body("EpNowhere-FPN")


def test_two_distributions_with_one_name_conflict_only_over_that_name(environment):
    environment(
        "ep-left",
        "[convbody.bodies]\nEpTwin = ep_left:build\nEpLeft = ep_left:build\n",
        ep_left="def build(cfg): ...",
    )
    environment("ep-right", "[convbody.bodies]\nEpTwin = ep_right:build\n", ep_right="def build(cfg): ...")
    with pytest.raises(DuplicateNameError) as error:
        BODIES.get("EpTwin")
    assert "ep-left 1.0" in str(error.value) and "ep-right 1.0" in str(error.value)
    assert callable(BODIES.get("EpLeft"))


def test_a_distribution_cannot_take_a_shipped_name(environment):
    environment("ep-thief", "[convbody.bodies]\nR-50 = ep_thief:build\n", ep_thief="def build(cfg): ...")
    with pytest.raises(DuplicateNameError, match=r"ep-thief 1\.0"):
        BODIES.get("R-50")
    assert callable(BODIES.get("R-101"))


@pytest.fixture
def registered_names(monkeypatch):
    monkeypatch.setattr(BODIES, "_entries", dict(BODIES._entries))


def test_file_plugin_beside_the_config(tmp_path, registered_names):
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "mine.py").write_text(plugin("FileBody"))
    config = tmp_path / "a.yaml"
    config.write_text(
        'PLUGINS: ("plugins/mine.py",)\n'
        "MODEL:\n  BACKBONE: {CONV_BODY: FileBody-FPN}\n  FILEBODY: {WIDTH: 3}\n"
    )
    cfg = load_cfg(config)
    assert (cfg.MODEL.FILEBODY.WIDTH, cfg.SOLVER.BASE_LR) == (3, 0.25)
    assert (str(tmp_path / "plugins" / "mine.py"),) == cfg.PLUGINS, "a saved config works in any folder"
    assert load_cfg(config) == cfg, "loading a plugin again does nothing"


def test_module_plugin_of_the_working_directory(tmp_path, monkeypatch, registered_names):
    (tmp_path / "module_plugin_x.py").write_text(plugin("ModuleBody"))
    monkeypatch.chdir(tmp_path)
    cfg = load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", "ModuleBody-C4"], plugins=["module_plugin_x"])
    assert cfg.MODEL.MODULEBODY.WIDTH == 8
    del sys.modules["module_plugin_x"]


@pytest.mark.parametrize(
    "content",
    [
        None,
        "import no_such_module\n",
        "def (:\n",
        "raise SystemExit(3)\n",
        "raise ValueError('two\\nlines')\n",
    ],
)
def test_bad_file_plugin_names_file_and_line(tmp_path, content):
    if content is not None:
        (tmp_path / "bad.py").write_text(content)
    config = tmp_path / "a.yaml"
    config.write_text("# one\nPLUGINS: [bad.py]\n")
    with pytest.raises(PluginError) as error:
        load_cfg(config)
    assert "bad.py" in str(error.value) and f"{config}:2" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["", "plugins/mine", "../mine", "/"])
def test_a_plugin_that_is_no_module_and_no_file_is_named(name):
    with pytest.raises(PluginError, match=r"neither a module name nor a \.py file"):
        load_cfg(None, plugins=[name])


def test_lazy_name_of_this_project_is_not_imported_by_load_cfg():
    code = """
    import sys
    from registry import load_cfg
    load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", "R-50-FPN"])
    assert "torch" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_command_line_listing(capsys):
    from registry.__main__ import main
    from registry.program import status_of

    assert status_of(lambda: main(["necks", "FPN*"])) == 0
    printed = capsys.readouterr().out
    assert "FPN-RETINANET" in printed and "fpn.py:" in printed and "C4" not in printed
    assert status_of(lambda: main(["config", "SOLVER.BASE_LR"])) == 0
    assert capsys.readouterr().out.startswith("SOLVER.BASE_LR = ")
    assert status_of(lambda: main(["bodies", "--plugin", "no_such_plugin"])) == 2
    assert "no_such_plugin" in capsys.readouterr().err


def test_registry_without_group_reads_no_entry_points(environment):
    environment("ep-none", "[convbody.bodies]\nEpNone = ep_none:build\n", ep_none="")
    assert Registry("thing").names() == []
