import hashlib
import threading
import urllib.error
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from backbones.weights import load_weights, source
from backbones.weights.catalog import URLS
from registry import ConfigError, load_cfg


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVBODY_WEIGHTS", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def served(tmp_path):
    """(folder, its address on a server of this machine)."""
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def offline(monkeypatch):
    asked = []

    def fail(url, timeout):
        asked.append(url)
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(source, "urlopen", fail)
    return asked


def test_an_address_is_fetched_once(served, cache, build_narrow):
    folder, address = served
    original, target = build_narrow("R-50"), build_narrow("R-50")
    torch.save(original.state_dict(), folder / "r50.pth")
    load_weights(target, f"{address}/r50.pth")
    assert torch.equal(target.body.stem.conv1.weight, original.body.stem.conv1.weight)
    assert sorted(file.name.split("-", 1)[1] for file in cache.iterdir()) == ["r50.pth", "r50.pth.sha256"]
    (folder / "r50.pth").unlink()
    again = build_narrow("R-50")
    load_weights(again, f"{address}/r50.pth")
    assert torch.equal(again.body.stem.conv1.weight, original.body.stem.conv1.weight)


def test_files_of_one_name_are_kept_apart(served):
    folder, address = served
    for run in "ab":
        (folder / run).mkdir()
        (folder / run / "model_final.pkl").write_text(run)
    files = [source.local_file(f"{address}/{run}/model_final.pkl") for run in "ab"]
    assert [file.read_text() for file in files] == ["a", "b"]


def test_a_checksum_is_held_to_when_fetched_and_later(served, cache):
    folder, address = served
    (folder / "w.pth").write_bytes(b"weights")
    right, wrong = hashlib.sha256(b"weights").hexdigest(), "0" * 64
    with pytest.raises(ConfigError, match=f"its sha256 is {right}"):
        source.local_file(f"{address}/w.pth#sha256={wrong}")
    assert list(cache.iterdir()) == []
    file = source.local_file(f"{address}/w.pth#sha256={right}")
    assert source.local_file(f"{address}/w.pth#sha256={right}") == file
    file.write_bytes(b"others")
    with pytest.raises(ConfigError, match="another sha256"):
        source.local_file(f"{address}/w.pth#sha256={right}")


def test_a_file_of_unknown_checksum_is_held_to_the_one_it_came_with(served):
    folder, address = served
    (folder / "w.pth").write_bytes(b"weights")
    file = source.local_file(f"{address}/w.pth")
    assert source.local_file(f"{address}/w.pth") == file
    file.write_bytes(b"others")
    with pytest.raises(ConfigError, match="w.pth has changed since it was fetched") as caught:
        source.local_file(f"{address}/w.pth")
    assert "\n" not in str(caught.value)
    for path in (file, file.with_name(f"{file.name}.sha256")):
        path.unlink()
    assert source.local_file(f"{address}/w.pth").read_bytes() == b"weights"


@pytest.mark.parametrize(
    "weight",
    [
        "catalog://ImageNetPretrained/MSRA/R-50",
        "torchvision://resnet50?weights=V1",
        "https://example.com/a.pth",
    ],
)
def test_an_address_survives_being_a_path(weight):
    assert source.address(Path(weight)) == source.address(weight) == weight


def test_paths_stay_as_they_are():
    assert source.address(Path("/data/timm:/x.pth")) == "/data/timm:/x.pth"


def test_a_path_that_is_an_address_is_loaded_from_there(offline, build_narrow):
    with pytest.raises(ConfigError, match="save it as"):
        load_weights(build_narrow("R-50"), Path("catalog://ImageNetPretrained/MSRA/R-50"))
    assert offline == [URLS["ImageNetPretrained/MSRA/R-50"]]


def test_what_the_server_does_not_have(served, cache):
    with pytest.raises(ConfigError, match="404"):
        source.local_file(f"{served[1]}/absent.pth")
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("weight", "address"),
    [
        (
            "catalog://ImageNetPretrained/MSRA/R-50",
            "https://dl.fbaipublicfiles.com/detectron/ImageNetPretrained/MSRA/R-50.pkl",
        ),
        (
            "catalog://Caffe2Detectron/COCO/37697547/e2e_keypoint_rcnn_R-50-FPN_1x",
            "https://dl.fbaipublicfiles.com/detectron/37697547/12_2017_baselines/"
            "e2e_keypoint_rcnn_R-50-FPN_1x.yaml.08_42_54.kdzV35ao/output/train/"
            "keypoints_coco_2014_train%3Akeypoints_coco_2014_valminusminival/generalized_rcnn/model_final.pkl",
        ),
        (
            "torchvision://resnet50?weights=IMAGENET1K_V2",
            "https://download.pytorch.org/models/resnet50-11ad3fa6.pth#sha256=11ad3fa6",
        ),
        (
            "torchvision://resnet18",
            "https://download.pytorch.org/models/resnet18-f37072fd.pth#sha256=f37072fd",
        ),
        (
            "timm://resnet50.a1_in1k",
            "https://huggingface.co/timm/resnet50.a1_in1k/resolve/main/model.safetensors",
        ),
        (
            "timm://tresnet_m.miil_in21k_ft_in1k",
            "https://huggingface.co/timm/tresnet_m.miil_in21k_ft_in1k/resolve/main/model.safetensors",
        ),
        (
            "detectron2://ImageNetPretrained/MSRA/R-50.pkl",
            "https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/MSRA/R-50.pkl",
        ),
        ("https://example.com/a/r50.pth", "https://example.com/a/r50.pth"),
    ],
)
def test_offline_the_error_names_the_file_to_put_in_place(weight, address, cache, offline):
    with pytest.raises(ConfigError, match="no route") as caught:
        source.local_file(weight, load_cfg(None, ["MODEL.WEIGHT", weight]))
    message = str(caught.value)
    assert offline == [address]
    assert address in message and "set on the command line" in message and "\n" not in message
    name = message.split("save it as ")[1].split(" in ")[0]
    assert f"{name} in {cache}" in message
    (cache / name).write_text("put there by hand")
    if "#sha256=" in address:
        with pytest.raises(ConfigError, match="another sha256"):
            source.local_file(weight)
    else:
        assert source.local_file(weight).read_text() == "put there by hand"


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ("catalog://ImageNetPretrained/MSRA/R-51", "nearest: ImageNetPretrained/MSRA/R-50"),
        ("torchvision://resnet51", "no weights DEFAULT of a model resnet51"),
        ("torchvision://resnet50?weights=V9", "no weights V9 of a model resnet50"),
        ("timm://no_such_model", "timm has no weights no_such_model"),
        ("timm://resnet50.no_such_tag", "timm has no weights resnet50.no_such_tag"),
        ("ftp://example.com/x.pth", "neither a path nor one of catalog://"),
    ],
)
def test_names_that_stand_for_nothing(weight, message, offline):
    with pytest.raises(ConfigError, match=message):
        source.local_file(weight, load_cfg(None, ["MODEL.WEIGHT", weight]))
    assert offline == []


def test_the_catalogue_is_the_published_one():
    assert len(URLS) == len(set(URLS.values())) == 15
    assert all(url.endswith(".pkl") for url in URLS.values())
