"""Arrays in pickles: whatever numpy writes in any protocol is read, and nothing else is."""

import pickle
import struct

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis.extra import numpy as arrays

from backbones.weights.pickle_file import PickledArray, read_pickle
from backbones.weights.read import read_tensors
from registry import ConfigError

DTYPES = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"]


@st.composite
def any_array(draw):
    """Of any type in use, byte order, and order in memory: C, Fortran, transposed, every second column."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES))).newbyteorder(draw(st.sampled_from("<>")))
    shape = draw(arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    array = np.asarray(draw(arrays.arrays(dtype, shape, elements=arrays.from_dtype(dtype.newbyteorder("=")))))
    array = array.transpose(draw(st.permutations(range(array.ndim))))
    if draw(st.booleans()):
        array = np.asfortranarray(array)
    return array[..., ::2] if array.ndim and draw(st.booleans()) else array


@given(any_array(), st.integers(0, 5))
@example(np.zeros(0, "f4"), 0)
@example(np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1), 5)
def test_an_array_of_any_protocol_is_read_bit_by_bit(tmp_path_factory, array, protocol):
    file = tmp_path_factory.getbasetemp() / "array.pkl"
    file.write_bytes(pickle.dumps({"a": array}, protocol))
    held = read_pickle(file)["a"]
    assert isinstance(held, PickledArray) and held.nbytes == array.nbytes
    tensor = held.tensor()
    native = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))).reshape(array.shape)
    assert tensor.shape == array.shape and tensor.is_contiguous()
    assert tensor.dtype == torch.from_numpy(native).dtype
    assert tensor.numpy().tobytes() == native.tobytes()


def python_2(array, protocol):
    """{"blobs": {"conv1_b": array}} as Python 2 wrote it, where text and the array's buffer are bytes."""

    def text(value):
        if protocol == 0:
            escaped = "".join(chr(c) if 32 <= c < 127 and c not in b"'\\" else f"\\x{c:02x}" for c in value)
            return f"S'{escaped}'\n".encode("latin-1")
        short = len(value) < 256
        return (b"U" + bytes([len(value)]) if short else b"T" + struct.pack("<I", len(value))) + value

    def number(value):
        return f"I{value}\n".encode()

    shape = b"(" + b"".join(map(number, array.shape)) + b"t"
    order = b"<" if array.dtype.byteorder in "=<" else array.dtype.byteorder.encode()
    dtype = b"cnumpy\ndtype\n(" + text(array.dtype.str[1:].encode()) + number(0) + number(1) + b"tR"
    dtype += b"(" + number(3) + text(order) + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    reconstruct = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + number(0) + b"t" + text(b"b") + b"tR"
    )
    state = b"(" + number(1) + shape + dtype + number(0) + text(array.tobytes()) + b"tb"
    begin, mapping = (b"", b"(d") if protocol == 0 else (b"\x80\x02", b"}")
    return begin + mapping + text(b"blobs") + mapping + text(b"conv1_b") + reconstruct + state + b"ss."


@pytest.mark.parametrize("protocol", [0, 2])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "<i8", "|u1"])
def test_a_file_of_python_2(tmp_path, protocol, dtype):
    array = (np.arange(300) % 251).astype(dtype).reshape(3, 100)  # bytes of every value
    (tmp_path / "w.pkl").write_bytes(python_2(array, protocol))
    tensor = read_tensors(tmp_path / "w.pkl")["conv1_b"]
    assert tensor.shape == (3, 100) and np.array_equal(tensor.numpy(), array)


class Call:
    """Pickles as a call of ``function``, and then sets its state."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


def reconstruct(*arguments, state=None):
    return Call(np.zeros(1).__reduce__()[0], *arguments, state=state)


F4, START = np.dtype("f4"), (np.ndarray, (0,), b"b")
ODD = {
    "too few bytes": reconstruct(*START, state=(1, (3,), F4, False, b"1234")),
    "too many bytes": reconstruct(*START, state=(1, (), F4, False, b"12345678")),
    "a negative side": reconstruct(*START, state=(1, (-1, -1), F4, False, b"1234")),
    "a side that is no number": reconstruct(*START, state=(1, (True, 1.0), F4, False, b"1234")),
    "no sides": reconstruct(*START, state=(1, 1, F4, False, b"1234")),
    "too many sides": reconstruct(*START, state=(1, (1,) * 100, F4, False, b"1234")),
    "sides beyond any memory": reconstruct(*START, state=(1, (0, 2**62, 2**62), F4, False, b"")),
    "numbers for bytes": reconstruct(*START, state=(1, (1,), F4, False, 4)),
    "another version": reconstruct(*START, state=((1,), F4, False, b"1234")),
    "no dtype": reconstruct(*START, state=(1, (1,), "f4", False, b"1234")),
    "memory to begin with": reconstruct(np.ndarray, (10**12,), b"b"),
    "a class of another kind": reconstruct(np.dtype, (0,), b"b"),
    "a called class": Call(np.ndarray, (10**12,)),
    "a dtype of records": Call(np.dtype, [("a", "f4")]),
    "a byte order that is none": Call(
        np.dtype, "f4", False, True, state=(3, "?", None, None, None, -1, -1, 0)
    ),
    "a dtype without a state": Call(np.dtype, "f4", False, True, state={"itemsize": 10**9}),
    "extended precision": np.zeros(3, np.longdouble),
    "axes twice": Call(
        np.zeros((2, 3, 4)).transpose(2, 0, 1).__reduce_ex__(5)[0], bytearray(8), F4, (1, 2), "K", (0, 0)
    ),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("what", ODD)
def test_what_numpy_does_not_write_is_refused(tmp_path, what, protocol):
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"a": np.zeros(1), "b": ODD[what]}, protocol))
    with pytest.raises(ConfigError, match="cannot be read as a weight file") as caught:
        read_tensors(tmp_path / "w.pkl")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value", [np.array(["x"]), np.array([b"y"]), np.array([{}]), np.zeros(2, [("a", "f4")])]
)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_arrays_of_other_things_than_numbers_are_left_out(tmp_path, value, protocol):
    scalars = {"s": np.float32(3), "d": np.datetime64("2020-01-01"), "dates": np.array(["2020"], "M8[Y]")}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"a": np.zeros(1), "b": value, **scalars}, protocol))
    assert read_tensors(tmp_path / "w.pkl").keys() == {"a"}


ENCODE = b"c_codecs\nencode\n"


@pytest.mark.parametrize(
    "call",
    [
        ENCODE + b"(Vx\nVutf-8\ntR",
        ENCODE + b"(Vx\ntR",
        ENCODE + b"(Vx\nVlatin-1\nVstrict\ntR",
        ENCODE + b"(Vx\nVrot13\ntR",
        ENCODE + b"(I3\nVlatin1\ntR",
        ENCODE + b"(Vx\nNtR",
        ENCODE + b"(V\\u20ac\nVlatin1\ntR",
        ENCODE + b"p5\n0(i_codecs\nencode\n0g5\n(Vx\nVhex\ntR",  # kept in the memo, called later
        ENCODE + b"}Vfunction\nc_codecs\nencode\nsb",  # given other attributes
        ENCODE + b"(N}Vfunction\nc_codecs\nencode\nstb",
        b"c_codecs\nlookup\n(Vx\ntR",
        b"c_codecs\ndecode\n(Vx\nVlatin1\ntR",
        b"c__builtin__\nbytes\n(I1000000000000\ntR",
        b"c__builtin__\ngetattr\n(c_codecs\nencode\nV__self__\ntR",
    ],
)
def test_encode_takes_exactly_what_bytes_are_written_with(tmp_path, call):
    sound = ENCODE + b"(V\\xe9\nVlatin1\ntR"
    (tmp_path / "w.pkl").write_bytes(b"(dVa\n" + sound + b"s.")
    with pytest.raises(ConfigError, match="holds no named tensors; its keys are a"):
        read_tensors(tmp_path / "w.pkl")
    (tmp_path / "w.pkl").write_bytes(b"(dVa\n" + call + b"s.")
    with pytest.raises(ConfigError, match="cannot be read as a weight file") as caught:
        read_tensors(tmp_path / "w.pkl")
    assert "\n" not in str(caught.value)
    (tmp_path / "w.pkl").write_bytes(b"(dVa\n" + sound + b"s.")  # and nothing is left of it
    with pytest.raises(ConfigError, match="holds no named tensors; its keys are a"):
        read_tensors(tmp_path / "w.pkl")
