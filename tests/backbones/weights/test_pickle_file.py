import operator
import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch

from backbones.weights.read import read_tensors
from registry import ConfigError, load_cfg


class Calls:
    """Pickles as a call of ``function``: what a hostile file holds in the place of an array."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def write(path, content, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return str(path)


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda blobs: blobs,
        OrderedDict,
        lambda blobs: {"blobs": blobs, "cfg": "MODEL: {}"},
        lambda blobs: {"model": blobs, "__author__": "someone", "matching_heuristics": True},
    ],
    ids=["bare", "ordered", "Detectron", "detectron2"],
)
def test_arrays_become_tensors_out_of_their_nesting(tmp_path, wrap, protocol):
    blobs = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "turned": np.arange(6, dtype=np.float64).reshape(2, 3).T,
        "other byte order": np.array([1, 2], ">f4"),
        "half": np.float16([1, 2]),
        "text": np.array(["x"]),
        "scalar": np.float32(3),
    }
    state = read_tensors(write(tmp_path / "w.pkl", wrap(blobs), protocol))
    assert list(state) == ["a", "turned", "other byte order", "half"]
    for name, tensor in state.items():
        assert torch.equal(tensor, torch.tensor(blobs[name].tolist(), dtype=tensor.dtype))
    assert state["a"].dtype == torch.float32 and state["half"].dtype == torch.float16


def test_a_file_of_python_2(tmp_path):
    """Protocol 0 as Python 2 wrote it: text keys are bytes, and so is the array's buffer."""
    file = tmp_path / "w.pkl"
    file.write_bytes(
        b"(dp0\nS'blobs'\np1\n(dp2\nS'conv1_b'\np3\ncnumpy.core.multiarray\n_reconstruct\np4\n"
        b"(cnumpy\nndarray\np5\n(I0\ntp6\nS'b'\np7\ntp8\nRp9\n(I1\n(I2\ntp10\ncnumpy\ndtype\np11\n"
        b"(S'f4'\np12\nI0\nI1\ntp13\nRp14\n(I3\nS'<'\np15\nNNNI-1\nI-1\nI0\ntp16\nbI00\n"
        b"S'\\x00\\x00\\x80?\\x00\\x00\\x00\\xc0'\np17\ntp18\nbss."
    )
    assert torch.equal(read_tensors(str(file))["conv1_b"], torch.tensor([1.0, -2.0]))


HOSTILE = {
    "system": lambda mark: Calls(os.system, f"touch {mark}"),
    "eval": lambda mark: Calls(eval, f"open({str(mark)!r}, 'w')"),
    "exec": lambda mark: Calls(exec, f"open({str(mark)!r}, 'w')"),
    "getattr": lambda mark: Calls(getattr, np.zeros(1), "tofile"),
    "open": lambda mark: Calls(open, str(mark), "w"),
    "attrgetter": lambda mark: Calls(operator.attrgetter, "__class__.__base__"),
    "save": lambda mark: Calls(np.save, str(mark), np.zeros(1)),
}


@pytest.mark.parametrize("function", HOSTILE)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_hostile_file_is_refused_and_never_run(tmp_path, function, protocol):
    mark, path = tmp_path / "ran", tmp_path / "w.pkl"
    write(path, {"conv1_w": HOSTILE[function](mark)}, protocol)
    with pytest.raises(ConfigError, match=rf"it asks for \w+\.{function}, and") as caught:
        read_tensors(str(path), load_cfg(None, ["MODEL.WEIGHT", str(path)]))
    message = str(caught.value)
    assert str(path) in message and "set on the command line" in message and "\n" not in message
    assert not mark.exists()


@pytest.mark.parametrize(
    "dotted",
    [b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.", b"\x80\x04\x8c\x05numpy\x8c\x0bos.path.abc\x93."],
)
def test_attributes_of_what_is_admitted_are_not(tmp_path, dotted):
    (tmp_path / "w.pkl").write_bytes(dotted)
    with pytest.raises(ConfigError, match="it asks for numpy"):
        read_tensors(str(tmp_path / "w.pkl"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"not a pickle", "cannot be read"),
        (pickle.dumps({"a": np.zeros(9)}, protocol=4)[:-20], "cannot be read"),
        (b"\x80\x04]\x94(K\x01e\x85R.", "cannot be read"),
        (pickle.dumps([1, 2]), "no named tensors"),
        (pickle.dumps({"cfg": "text"}), "no named tensors"),
    ],
    ids=["empty", "text", "cut", "broken", "list", "text only"],
)
def test_what_is_no_weight_file_is_named(tmp_path, content, message):
    (tmp_path / "w.pkl").write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_tensors(str(tmp_path / "w.pkl"))
    assert "w.pkl" in str(caught.value) and "\n" not in str(caught.value)
