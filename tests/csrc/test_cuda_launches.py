"""Every kernel that csrc/cuda launches, of every type, is one that the emulation on the CPU runs."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
CUDA = ROOT / "csrc" / "cuda"
#: The types of the kernels, as the emulation calls them.
TYPES = {"double": "double", "float": "float", "__half": "Half", "__nv_bfloat16": "BFloat16"}


def text(path):
    return (ROOT / path).read_text()


def test_kernels_are_launched_in_known_places_only():
    """One that is launched elsewhere would be none that the tests below see."""
    launched = {path.name: re.findall(r"(\w+)(?:<\w+>)?<<<", path.read_text()) for path in CUDA.iterdir()}
    assert {name: found for name, found in launched.items() if found} == {
        "deform_conv.cu": ["kernel", "reduce_weight_kernel"],  # the first in launch()
        "activated_norm.cu": ["kernel"],  # in Launch::run()
    }


def test_every_tile_of_deformable_convolution_is_emulated():
    source, emulation = text("csrc/cuda/deform_conv.cu"), text("tests/csrc/tile_emulation.cpp")
    calls = re.findall(r"\blaunch<([^;(]*?)>\(\s", source)
    launched = [re.search(r"cuda::(\w+)<T>$", call.replace("\n", " ")) for call in calls]
    assert launched and all(launched), calls
    tiles = {match[1] for match in launched} | set(re.findall(r"cuda::(reduce_\w+)\(", source))
    assert tiles >= {"forward_tile", "reduce_weight"}
    missing = [tile for tile in tiles if not re.search(rf"\b{tile}(<T>)?\(", emulation)]
    assert missing == []


def test_every_type_is_emulated():
    source, emulation = text("csrc/cuda/deform_conv.cu"), text("tests/csrc/tile_emulation.cpp")
    types = re.findall(r"return call\((\w+)\(\)\);", source)
    assert types and [t for t in types if f"solve<{TYPES[t]}>" not in emulation] == []


def test_the_emulated_norm_is_the_launching_code_itself():
    include = '#include "{}activated_norm_launch.h"'
    assert include.format("") in text("csrc/cuda/activated_norm.cu")
    assert include.format("../../csrc/cuda/") in text("tests/csrc/activated_norm_emulation.cpp")
