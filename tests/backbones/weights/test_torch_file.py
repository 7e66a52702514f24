"""What torch.save writes beside tensors, and tensors that are none to load."""

import argparse
import io
import resource
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from backbones.weights.read import read_tensors
from registry import ConfigError

A = torch.arange(6.0).reshape(2, 3)


class Call:
    """Pickles as a call of ``function``."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


def strided(size, stride):
    """A view of four numbers of any size and strides."""
    storage = torch.zeros(4).storage()
    return Call(torch._utils._rebuild_tensor_v2, storage, 0, size, stride, False, OrderedDict())


def save(folder, content, **options):
    torch.save(content, folder / "w.pth", **options)
    return folder / "w.pth"


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize("numpys", ["numpy._core", "numpy.core"])
def test_what_training_programs_save_beside_their_weights(tmp_path, archive, numpys):
    content = {
        "args": argparse.Namespace(lr=0.1, nested=argparse.Namespace(x=[1])),
        "best": np.float64(0.5),
        "history": np.arange(3),
        "model": OrderedDict(a=A, b=np.ones((2, 2), ">f4")),
        "raw": (b"bytes", bytearray(b"more"), {1, 2}, 1j),
    }
    content["model"]._metadata = {"version": 1}
    file = save(tmp_path, content, _use_new_zipfile_serialization=archive)
    if numpys == "numpy.core" and not archive:  # as numpy 1 wrote it
        file.write_bytes(file.read_bytes().replace(b"cnumpy._core.", b"cnumpy.core."))
    tensors = read_tensors(file)
    assert torch.equal(tensors["a"], A) and torch.equal(tensors["b"], torch.ones(2, 2))


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (A.to_sparse(), "sparse or nested"),
        (torch.empty(2, 3, device="meta"), "without data"),
    ],
)
def test_tensors_without_plain_numbers_are_named(tmp_path, tensor, reason):
    with pytest.raises(ConfigError, match=f"fc.weight is {reason}"):
        read_tensors(save(tmp_path, {"a": A, "fc.weight": tensor}))


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantized_tensors_are_named(tmp_path):
    quantized = torch.quantize_per_tensor(A, 0.1, 0, torch.qint8)
    with pytest.raises(ConfigError, match="fc.weight is quantized"):
        read_tensors(save(tmp_path, {"a": A, "fc.weight": quantized}))


@pytest.mark.filterwarnings("ignore:TypedStorage")
@pytest.mark.parametrize(
    ("size", "stride"),
    [
        ((2**40,), (0,)),
        ((2**20, 2**20), (0, 0)),
        ((2**40,), (1,)),
        ((2**62, 2**62), (0, 0)),
        ((2**40, 0), (1, 1)),
    ],
)
@pytest.mark.parametrize("name", ["a", "res2_0_branch1_bn_s", "features.0.0.weight"])
def test_a_tensor_larger_than_its_file_is_refused(tmp_path, name, size, stride):
    file = save(tmp_path, {"conv1_w": A, name: strided(size, stride)})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConfigError, match="cannot be read as a weight file") as caught:
        read_tensors(file)
    assert "\n" not in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


def test_many_names_for_one_large_tensor_are_refused(tmp_path):
    large = torch.zeros(300_000)
    few = {"a": large, "tied": large, "view": large[:10], "wide": A[:, :1].expand(2, 900)}
    assert len(read_tensors(save(tmp_path, few))) == 4
    with pytest.raises(ConfigError, match="its tensors claim 1200000000 bytes, and the file has 1"):
        read_tensors(save(tmp_path, {f"a{i}": large for i in range(1000)}))


@pytest.mark.parametrize("call", [Call(bytearray, 10**14), Call(torch.Tensor, 10**14), Call(torch.Size, 3)])
def test_calls_that_ask_for_all_memory_are_refused(tmp_path, call):
    with pytest.raises(ConfigError, match="cannot be read as a weight file") as caught:
        read_tensors(save(tmp_path, {"a": A, "b": call}))
    assert "\n" not in str(caught.value)


def rezipped(file: Path, change) -> None:
    """The archive with the parts that ``change(name, content)`` gives, (name, content) each."""
    stream = io.BytesIO(file.read_bytes())
    with zipfile.ZipFile(stream) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            for part in change(name, old.read(name)):
                new.writestr(*part)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name, content: [] if name.endswith("data.pkl") else [(name, content)], "0 files data.pkl"),
        (lambda name, content: [(name, content), (f"x{name}", content)], "2 files data.pkl"),
        (lambda name, content: [] if "/data/" in name else [(name, content)], "cannot be read"),
        (lambda name, content: [(name, content[:5])], "cannot be read"),
        (lambda name, content: [(name, content[:3] if "/data/" in name else content)], "cannot be read"),
    ],
)
def test_archives_with_other_parts_are_refused(tmp_path, change, message):
    file = save(tmp_path, {"a": A})
    rezipped(file, change)
    with pytest.raises(ConfigError, match=message) as caught:
        read_tensors(file)
    assert "\n" not in str(caught.value)


def test_advice_to_read_the_file_without_a_guard_is_not_handed_on(tmp_path):
    with pytest.raises(ConfigError) as caught:
        read_tensors(save(tmp_path, {"a": Call(print, "x")}, _use_new_zipfile_serialization=False))
    assert "print" in str(caught.value) and "weights_only" not in str(caught.value)
