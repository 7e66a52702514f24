"""The config key of plugins that need no packaging."""

from typing import Any

from registry.config import config_section


@config_section("", beside_config={"PLUGINS": (".py",)})
def plugin_defaults() -> dict[str, Any]:
    """Top-level key of the plugin list."""
    return {
        # Importable modules or paths of .py files (beside the config, or in the working directory) to
        # import before the config is read: ("my_module", "path/to/file.py").
        "PLUGINS": (),
    }
