"""Files that are hostile, broken or hold something else: each is refused with one sentence, and never run."""

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile

import pytest
import torch
from safetensors.torch import save
from torch import nn

from backbones.weights.read import read_tensors
from registry import ConfigError, load_cfg


class Calls:
    """Pickles as a call of ``os.system`` that leaves ``mark`` behind."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def saved(content, **options):
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def repacked(archive, change):
    """A zip archive whose parts went through ``change(name, content)`` to (name, content, compression)."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(stream, "w") as new:
        for name in old.namelist():
            new.writestr(*change(name, old.read(name)))
    return stream.getvalue()


def tar():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in ("storages", "tensors", "pickle", "../../escaped"):
            archive.addfile(tarfile.TarInfo(name))
    return stream.getvalue()


def safetensors(header, data=b"\0" * 16, length=None):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


TENSORS = {"a": torch.ones(2, 2)}
SOUND = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def refused(path):
    with pytest.raises(ConfigError) as caught:
        read_tensors(str(path), load_cfg(None, ["MODEL.WEIGHT", str(path)]))
    message = str(caught.value)
    assert str(path) in message and "set on the command line" in message and "\n" not in message
    return message


@pytest.mark.parametrize("suffix", ["pth", "pt", "pkl", "safetensors"])
@pytest.mark.parametrize(
    "write",
    [
        lambda hostile: saved({"a": hostile}),
        lambda hostile: saved({"a": hostile}, _use_new_zipfile_serialization=False),
        lambda hostile: pickle.dumps({"a": hostile}),
    ],
    ids=["archive", "old form", "bare pickle"],
)
def test_a_hostile_file_is_refused_whatever_it_is_called(tmp_path, write, suffix):
    mark, path = tmp_path / "ran", tmp_path / f"w.{suffix}"
    path.write_bytes(write(Calls(mark)))
    refused(path)
    assert not mark.exists()


def test_an_archive_that_asks_for_code_is_told_so(tmp_path):
    (tmp_path / "w.pth").write_bytes(saved({"a": Calls(tmp_path / "ran")}))
    assert "it asks for posix.system, and may hold tensors and plain containers only" in refused(
        tmp_path / "w.pth"
    )


@pytest.mark.parametrize("model", [nn.Linear(2, 2), nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))])
@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: {"model": model, "epoch": 3}])
def test_a_whole_model_is_told_what_to_do(tmp_path, model, wrap):
    torch.save(wrap(model), tmp_path / "w.pth")
    message = refused(tmp_path / "w.pth")
    assert "it holds a whole model" in message and "torch.save(model.state_dict(), path)" in message


def test_parts_that_point_out_of_the_archive_write_nothing(tmp_path):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "w.pth").write_bytes(repacked(saved(TENSORS), lambda name, content: (f"../../{name}", content)))
    try:
        read_tensors(str(folder / "w.pth"))
    except ConfigError as error:
        assert "\n" not in str(error)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["w.pth"]


def test_an_archive_that_would_swell_is_refused(tmp_path):
    (tmp_path / "w.pth").write_bytes(
        repacked(saved(TENSORS), lambda name, content: (name, content, zipfile.ZIP_DEFLATED))
    )
    assert "compressed archive" in refused(tmp_path / "w.pth")


def test_a_tar_is_refused(tmp_path):
    (tmp_path / "w.pth").write_bytes(tar())
    refused(tmp_path / "w.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]


@pytest.mark.parametrize("suffix", ["pth", "pkl", "safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, suffix, share):
    arrays = {name: tensor.numpy() for name, tensor in TENSORS.items()}
    whole = {"pth": saved(TENSORS), "pkl": pickle.dumps(arrays), "safetensors": save(TENSORS)}[suffix]
    path = tmp_path / f"w.{suffix}"
    path.write_bytes(whole)
    assert torch.equal(read_tensors(str(path))["a"], TENSORS["a"])
    path.write_bytes(whole[: int(share * len(whole))])
    refused(path)


@pytest.mark.parametrize(
    "content",
    [
        safetensors({"a": SOUND}, length=2**62),
        safetensors({"a": SOUND}, length=10**6),
        safetensors({"a": {**SOUND, "data_offsets": [0, 4 * 10**9]}}),
        safetensors({"a": {**SOUND, "data_offsets": [8, 24]}}),
        safetensors({"a": {**SOUND, "shape": [2, 200]}}),
        safetensors({"a": {**SOUND, "shape": [2**40, 2**40]}}),
        safetensors({"a": {**SOUND, "shape": [-2, -2]}}),
        safetensors({"a": {**SOUND, "dtype": "X99"}}),
        safetensors({"a": SOUND, "b": {**SOUND, "data_offsets": [8, 16], "shape": [2]}}),
        safetensors({"a": SOUND, "__metadata__": {"contract": "{no json"}}),
        safetensors({"a": SOUND, "__metadata__": {"contract": "{}"}}),
        safetensors([1, 2]),
    ],
    ids=[
        *(
            "endless header",
            "long header",
            "beyond the end",
            "gap",
            "too few",
            "overflow",
            "negative",
            "dtype",
        ),
        *("overlap", "metadata", "contract", "no mapping"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, content):
    (tmp_path / "w.safetensors").write_bytes(safetensors({"a": SOUND}))
    assert read_tensors(str(tmp_path / "w.safetensors"))["a"].shape == (2, 2)
    (tmp_path / "w.safetensors").write_bytes(content)
    refused(tmp_path / "w.safetensors")


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "w.pth").mkdir()
    assert "no such weight file" in refused(tmp_path / "w.pth")
