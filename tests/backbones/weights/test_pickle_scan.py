"""Small pickles that would exhaust the machine are refused before anything is built; all others pass."""

import io
import pickle
import struct
import zipfile

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from backbones.weights.pickle_scan import check_pickle
from backbones.weights.read import read_tensors
from registry import ConfigError

KEYS = st.text() | st.integers() | st.binary() | st.tuples(st.integers(), st.text())
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.binary().map(bytearray),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(KEYS, inner)
        | st.sets(KEYS)
        | st.frozensets(KEYS)
        | inner.map(lambda value: [value, value, (value, value)])
    ),
)


@given(PLAIN, st.integers(0, 5))
def test_whatever_a_pickler_writes_passes_and_its_end_is_found(content, protocol):
    written = pickle.dumps(content, protocol)
    stream = io.BytesIO(b"before" + written + b"after")
    stream.seek(6)
    check_pickle(stream)
    assert stream.read() == b"after"


@given(PLAIN, st.integers(0, 5), st.data())
def test_one_that_is_cut_off_is_refused(content, protocol, data):
    written = pickle.dumps(content, protocol)
    cut = written[: data.draw(st.integers(0, len(written) - 1))]
    with pytest.raises(pickle.UnpicklingError):
        check_pickle(io.BytesIO(cut))


def as_key(opcodes):
    """A dictionary with what ``opcodes`` leave on the stack as its only key."""
    return b"\x80\x02}" + opcodes + b"Ns."


DOUBLED = b"".join(b"q%ch%c\x86" % (i, i) for i in range(64))
BOMBS = {
    "tuples a million deep": as_key(b")" + b"\x85" * 1_000_000),
    "tuples that hold one another twice": as_key(b"K\x01" + DOUBLED),
    "the same through the top of the stack": as_key(b"K\x01" + b"2\x86" * 64),
    "a long tuple again and again": as_key(
        b"(" + b"N" * 10_000 + b"tq\x000" + b"(" + b"h\x00" * 10_000 + b"t"
    ),
    "a memo of two billion": b"\x80\x02}r" + struct.pack("<I", 2**31) + b".",
    "a memo of as many, as text": b"}p2000000000\n.",
    "a text of two gigabytes": b"\x80\x02}X" + struct.pack("<I", 2**31 - 1) + b"a" + b"Ns.",
    "bytes beyond any memory": b"\x80\x05}\x96" + struct.pack("<Q", 2**62) + b"Ns.",
    "a frame beyond any memory": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"}.",
    "a number of two gigabytes": b"\x80\x02}\x8b" + struct.pack("<i", 2**31 - 1) + b"\x01Ns.",
    "nothing on the stack": b"\x80\x02\x86.",
    "no mark": b"\x80\x02t.",
    "nothing in the memo": b"\x80\x02h\x07.",
}


@pytest.mark.parametrize("form", ["pickle", "archive", "old form"])
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_small_file_cannot_exhaust_the_machine(tmp_path, bomb, form):
    content, stream = BOMBS[bomb], io.BytesIO()
    if form == "archive":
        torch.save({"a": torch.ones(1)}, stream)
        with zipfile.ZipFile(stream) as old, zipfile.ZipFile(tmp_path / "w.pth", "w") as new:
            for name in old.namelist():
                new.writestr(name, content if name.endswith("data.pkl") else old.read(name))
    elif form == "old form":
        torch.save({}, stream, _use_new_zipfile_serialization=False)
        begin = (
            stream.getvalue().index(b"}q\x00.", 60) - 2
        )  # the fourth pickle, after what describes the machine
        (tmp_path / "w.pth").write_bytes(stream.getvalue()[:begin] + content + stream.getvalue()[begin + 6 :])
    else:
        (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_tensors(tmp_path / "w.pth")
    assert "\n" not in str(caught.value)


def test_lists_and_dictionaries_may_be_as_deep_as_they_like(tmp_path):
    """They are no keys; where weights are looked for in them, it is not beyond a few levels."""
    deep = b"".join((b"\x80\x02", b"}X\x05\x00\x00\x00model" * 100_000, b"N", b"s" * 100_000, b"."))
    (tmp_path / "w.pkl").write_bytes(deep)
    with pytest.raises(ConfigError, match="holds no named tensors"):
        read_tensors(tmp_path / "w.pkl")
