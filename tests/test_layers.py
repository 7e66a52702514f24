"""The floors of the house: imports go down only, and importing a package loads nothing heavy."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FLOORS = ["tools", "convbody", "backbones", "registry"]  # top to bottom
TASKS = ["convbody.detection", "convbody.classification", "convbody.search"]
NOT_INSTALLED = ["tests", "scripts", "benchmarks"]

# Modules that configs and the registry read before anything is built.
LIGHT = ["registry/**/*.py", "**/config.py", "**/__init__.py"]
HEAVY = {"torch", "torchvision", "timm", "pycocotools", "jinja2"}
# What a program that builds one of our own backbones does without, torch apart.
ELSEWHERE = {
    *("torchvision", "timm", "PIL", "pycocotools", "hotcoco", "matplotlib", "fvcore", "iopath", "jinja2"),
    *("tensorboard", "onnx", "onnxruntime", "safetensors", "scipy"),
}


def sources(*patterns: str) -> list[str]:
    """Every Python file of the project that a pattern matches, relative to the root."""
    found = {path.relative_to(ROOT) for pattern in patterns for path in ROOT.glob(pattern)}
    return sorted(str(path) for path in found if path.parts[0] in FLOORS)


def imports(source: str, path: str, *, when_loaded: bool = False) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of every import in a file; with ``when_loaded`` those that run as
    the file is imported: not those inside functions, nor those that only type checkers see.
    """
    package = list(Path(path).parent.parts)
    nodes: list[ast.AST] = [ast.parse(source)]
    while nodes:
        node = nodes.pop()
        for_later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not (when_loaded and (for_later or for_types)):
            nodes.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            origin = ".".join([*base, node.module] if node.module else base)
            # `from convbody import training` imports a submodule, so the names count too.
            yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)


def is_inside(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def upward_imports(path: str, source: str) -> list[str]:
    """The imports of a file that go up, or from training into a task."""
    module = ".".join(Path(path).with_suffix("").parts)
    forbidden = FLOORS[: FLOORS.index(module.partition(".")[0])] + NOT_INSTALLED
    if is_inside(module, "convbody.training"):
        forbidden += TASKS
    return [
        f"{path}:{line} imports {name}"
        for line, name in imports(source, path)
        if any(is_inside(name, package) for package in forbidden)
    ]


@pytest.mark.parametrize("path", sources("**/*.py"))
def test_imports_go_down_only(path: str) -> None:
    assert upward_imports(path, (ROOT / path).read_text()) == []


@pytest.mark.parametrize("path", sources(*LIGHT))
def test_light_modules_import_no_heavy_library(path: str) -> None:
    when_loaded = not path.startswith("registry/")  # the registry imports none even inside a function
    found = imports((ROOT / path).read_text(), path, when_loaded=when_loaded)
    assert [f"{path}:{line} imports {name}" for line, name in found if name.partition(".")[0] in HEAVY] == []


@pytest.mark.parametrize(
    ("path", "source", "wrong"),
    [
        ("registry/core.py", "import torch", False),
        ("registry/core.py", "from backbones import spec", True),
        ("registry/core.py", "def late():\n    import backbones.spec", True),
        ("backbones/fpn.py", "from registry import NECKS", False),
        ("backbones/fpn.py", "from convbody.training import loop", True),
        ("backbones/resnet/body.py", "from ..spec import Backbone", False),
        ("convbody/training/loop.py", "from convbody.detection.model import build_detector", True),
        ("convbody/training/loop.py", "from convbody import detection", True),
        ("convbody/training/loop.py", "from ..detection import model", True),
        ("convbody/training/__init__.py", "from ..detection import model", True),
        ("convbody/training/__init__.py", "from .loop import train", False),
        ("convbody/training/checkpoint.py", "from convbody import __version__", False),
        ("convbody/detection/train.py", "from convbody.training.loop import train", False),
        ("convbody/detection/train.py", "from tools import train_net", True),
        ("convbody/cli.py", "import tests.conftest", True),
        ("tools/train_net.py", "from convbody.detection.train import train_detector", False),
    ],
)
def test_the_check_itself_tells_up_from_down(path: str, source: str, wrong: bool) -> None:
    assert bool(upward_imports(path, source)) is wrong


@pytest.mark.parametrize(
    "statement",
    [
        "import registry; registry.get_cfg()",
        "import registry; registry.load_cfg(None, ['MODEL.BACKBONE.CONV_BODY', 'R-101-FPN'])",
        "import backbones",
        "from backbones.listing import *; [defined_in(name) for name in backbone_names()]",
        "import convbody",
        "import convbody.cli",
        "import convbody.training",
        "import convbody.detection",
        "import convbody.detection.data",
    ],
)
def test_imports_are_quick(statement: str) -> None:
    """Nothing heavy is loaded, and so nothing is built."""
    assert loaded_by(statement) & (HEAVY | ELSEWHERE) == set()


@pytest.mark.parametrize(
    "statement",
    [
        "from backbones import *",
        "from backbones import build_backbone; from registry import load_cfg; build_backbone(load_cfg(None))",
    ],
)
def test_a_backbone_loads_torch_and_little_else(statement: str) -> None:
    loaded = loaded_by(statement)
    assert "torch" in loaded and loaded & ELSEWHERE == set()


def test_training_loads_what_divides_a_model_only_to_divide_one() -> None:
    loaded = loaded_by("import convbody.training.loop")
    assert "torch" in loaded and loaded & {"torch.distributed.fsdp", "torch.distributed.tensor"} == set()


def loaded_by(statement: str) -> set[str]:
    """The modules that a fresh Python holds after a statement."""
    check = f"{statement}\nimport sys; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())
