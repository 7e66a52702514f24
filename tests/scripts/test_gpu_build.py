"""Which operators serve the GPU check: those built there, or those that the bundle carries."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = {"cpu": "_C.abi3.so", "cuda": "_C_cuda.abi3.so"}
# What is in a file says where it is from; one that is broken does not load.
STATUS = """
from pathlib import Path
for device, name in {names}.items():
    file = Path(__file__).with_name(name)
    loads = file.exists() and file.read_text() != "broken"
    print(f"{{device}}: " + ("the extension" if loads else "none (why)"))
"""
BUILDS = """
from pathlib import Path
ops = Path("backbones/ops")
for name in {names}: (ops / name).unlink(missing_ok=True)
for name, content in {contents}.items(): (ops / name).write_text(content)
"""
BOTH = dict.fromkeys(NAMES.values(), "built")


class Operators:
    """A checkout whose setup.py does what a test says."""

    def __init__(self, tree):
        self.tree = tree
        tree.real_part("build")
        self.folder = tree.root / "backbones" / "ops"
        for folder in (self.folder.parent, self.folder):
            (folder / "__init__.py").touch()
        (self.folder / "__main__.py").write_text(STATUS.format(names=NAMES))

    def setup(self, contents, then=""):
        """setup.py writes these files, or hangs or fails before."""
        program = BUILDS.format(names=[*NAMES.values()], contents=contents)
        (self.tree.root / "setup.py").write_text(then or program)

    def carry(self, *, current=True):
        """The bundle has both, built from these sources or from others."""
        spec = importlib.util.spec_from_file_location("carried", ROOT / "scripts" / "gpu" / "carried.py")
        carried = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(carried)
        folder = self.tree.root / "gpu_bundle" / "operators"
        folder.mkdir(parents=True)
        for name in NAMES.values():
            (folder / name).write_text("carried")
        sources = carried.fingerprint(self.tree.root) if current else "0" * 64
        (folder / "sources.sha256").write_text(f"{sources}\n")

    def outcome(self, *arguments):
        """Device -> whether it is right, where its operators are from, why not from here."""
        self.tree.run("--only", "build", *arguments)
        rows = self.tree.results["parts"]["build"]["rows"]
        return {
            device: (row["ok"], row["value"], row["detail"])
            for device in NAMES
            for row in rows
            if row["name"] == f"operators for {device}"
        }

    def in_place(self):
        """What is in the files that are loaded."""
        files = [self.folder / name for name in NAMES.values()]
        return [file.read_text() if file.exists() else None for file in files]


@pytest.fixture
def operators(tree):
    return Operators(tree)


def test_what_is_built_here_serves(operators):
    operators.setup(BOTH)
    operators.carry()
    assert operators.outcome() == dict.fromkeys(NAMES, (True, "built here", ""))
    assert operators.in_place() == ["built", "built"]


def test_without_nvcc_the_bundle_serves_cuda_alone(operators):
    operators.setup({"_C.abi3.so": "built"})
    operators.carry()
    outcome = operators.outcome()
    assert outcome["cpu"] == (True, "built here", "")
    assert outcome["cuda"] == (True, "carried in the bundle", "none (why)")
    assert operators.in_place() == ["built", "carried"]


def test_without_nvcc_and_without_a_bundle_that_is_wrong_except_in_a_rehearsal(operators):
    operators.setup({"_C.abi3.so": "built"})
    outcome = operators.outcome()
    assert outcome["cpu"][0] is True
    assert outcome["cuda"] == (False, "none", "none (why); the bundle carries none")
    assert operators.outcome("--rehearse")["cuda"][0] is None
    assert operators.tree.states()["build"] == "ok"


def test_those_of_other_sources_do_not_serve(operators):
    operators.setup({})
    operators.carry(current=False)
    for ok, source, why in operators.outcome().values():
        assert ok is False and source == "none" and "other sources" in why
    assert operators.in_place() == [None, None]


@pytest.mark.parametrize(
    ("program", "reason"),
    [("raise SystemExit(3)", "exit status 3"), ("import time; time.sleep(600)", "took longer than 1 s")],
)
def test_a_build_that_fails_or_hangs_leaves_it_to_the_bundle(operators, program, reason):
    operators.tree.operators()  # from before: of other sources, perhaps
    operators.setup({}, then=program)
    operators.carry()
    outcome = operators.outcome("--seconds", "16")
    assert all(ok and source == "carried in the bundle" for ok, source, _ in outcome.values())
    assert all(reason in why for _, _, why in outcome.values())
    assert operators.in_place() == ["carried", "carried"]


def test_what_was_built_and_does_not_load_leaves_it_to_the_bundle(operators):
    operators.setup(BOTH | {"_C_cuda.abi3.so": "broken"})
    operators.carry()
    assert [source for _, source, _ in operators.outcome().values()] == [
        "built here",
        "carried in the bundle",
    ]
    assert operators.in_place() == ["built", "carried"]
