import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from convbody.detection.data import CocoDataset, DataError, read_dataset
from convbody.detection.data.prepare import efficientnet, trees
from convbody.detection.data.prepare.efficientnet import WEIGHTS_FILE
from convbody.detection.data.prepare.trees import TileSettings, prepare_trees
from convbody.detection.data.prepare.wheels import Wheel

BOXES = [(10, 10, 30, 40), (55, 5, 75, 25), (62, 50, 66, 70)]
TILES = TileSettings(tile=64, overlap=16, min_visible=0.3)


def plot() -> dict[str, bytes]:
    """A picture of 120 by 100 pixels with three boxes, as the published plots are stored."""
    pixels = np.random.default_rng(0).integers(0, 256, (100, 120, 3), dtype=np.uint8)
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    corners = ("xmin", "ymin", "xmax", "ymax")
    objects = "".join(
        "<object><name>Tree</name><bndbox>"
        + "".join(f"<{name}>{value}</{name}>" for name, value in zip(corners, box, strict=True))
        + "</bndbox></object>"
        for box in BOXES
    )
    return {"png": png.getvalue(), "xml": f"<annotation>{objects}</annotation>".encode()}


def pack(folder: Path, name: str, members: dict[str, bytes]) -> Wheel:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return Wheel(name, "1.0", path.name, hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with small wheels that stand in for the published ones; pip finds no others."""
    folder = tmp_path / "downloads"
    members = {
        f"{name}.{suffix}": content for name in trees._PLOTS.values() for suffix, content in plot().items()
    }
    monkeypatch.setattr(trees, "DEEPFOREST", pack(folder, "plots", members))
    weights = io.BytesIO()
    torch.save({"_conv_stem.weight": torch.ones(2), "_blocks.15._bn2.bias": torch.zeros(1)}, weights)
    lite0 = pack(folder, "lite0", {efficientnet._MEMBER: weights.getvalue()})
    monkeypatch.setattr(efficientnet, "EFFICIENTNET_LITE0", lite0)
    monkeypatch.setattr(trees, "EFFICIENTNET_LITE0", lite0)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return folder


def test_both_splits_are_data_sets_without_mistakes(downloads: Path, tmp_path: Path):
    folder = tmp_path / "trees"
    assert prepare_trees(folder, downloads, TILES)
    for split in ("train", "test"):
        _, report = read_dataset(folder / f"{split}.json", folder / split, how="full")
        assert report.ok, str(report)
        assert CocoDataset(folder / split, folder / f"{split}.json").class_names == ["tree"]


def test_test_tiles_count_every_tree_where_it_shows(downloads: Path, tmp_path: Path):
    prepare_trees(tmp_path / "trees", downloads, TILES)
    data = json.loads((tmp_path / "trees" / "test.json").read_text())
    assert [(i["file_name"], i["width"], i["height"]) for i in data["images"]] == [
        ("x0000_y0000.png", 60, 50),
        ("x0060_y0000.png", 60, 50),
        ("x0000_y0050.png", 60, 50),
        ("x0060_y0050.png", 60, 50),
    ]
    found = {(a["image_id"], *a["bbox"]) for a in data["annotations"]}
    # The second box shows a quarter in the first tile, which is too little, and three quarters in the next.
    assert found == {(1, 10, 10, 20, 30), (2, 0, 5, 15, 20), (4, 2, 0, 4, 20)}
    assert all(a["area"] == a["bbox"][2] * a["bbox"][3] for a in data["annotations"])


def test_training_tiles_are_of_one_size_and_overlap(downloads: Path, tmp_path: Path):
    prepare_trees(tmp_path / "trees", downloads, TILES)
    data = json.loads((tmp_path / "trees" / "train.json").read_text())
    assert {(i["width"], i["height"]) for i in data["images"]} == {(64, 64)}
    assert len(data["annotations"]) > len(BOXES), "a box that lies in two tiles is in both"


def test_the_weights_are_written_under_timms_names(downloads: Path, tmp_path: Path):
    prepare_trees(tmp_path / "trees", downloads, TILES)
    state = torch.load(tmp_path / "trees" / WEIGHTS_FILE, weights_only=True)
    assert state.keys() == {"conv_stem.weight", "blocks.6.0.bn3.bias"}
    assert state["conv_stem.weight"].tolist() == [1, 1]


def test_work_that_is_done_is_not_done_again(downloads: Path, tmp_path: Path):
    folder = tmp_path / "trees"
    prepare_trees(folder, downloads, TILES)
    for wheel in downloads.iterdir():
        wheel.unlink()
    assert not prepare_trees(folder, downloads, TILES)


@pytest.mark.parametrize("damaged", ["train/x0000_y0000.png", "test.json", WEIGHTS_FILE, "prepared.json"])
def test_a_damaged_output_is_made_again(downloads: Path, tmp_path: Path, damaged: str):
    folder = tmp_path / "trees"
    prepare_trees(folder, downloads, TILES)
    before = (folder / damaged).read_bytes()
    (folder / damaged).write_bytes(before[:-9])
    assert prepare_trees(folder, downloads, TILES)
    assert (folder / damaged).read_bytes() == before


def test_other_settings_are_other_work(downloads: Path, tmp_path: Path):
    prepare_trees(tmp_path / "trees", downloads, TILES)
    assert prepare_trees(tmp_path / "trees", downloads, TileSettings(50, 10, 0.3))


def test_a_wheel_that_cannot_be_had_is_a_sentence(downloads: Path, tmp_path: Path):
    (downloads / "plots-1.0-py3-none-any.whl").unlink()
    with pytest.raises(
        DataError, match=r"cannot download plots 1\.0 .*get plots-1\.0-py3-none-any\.whl"
    ) as caught:
        prepare_trees(tmp_path / "trees", downloads, TILES)
    assert f"put it in {downloads}" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "trees" / "prepared.json").exists()


def test_a_wheel_that_is_another_is_not_used(downloads: Path, tmp_path: Path):
    path = downloads / "lite0-1.0-py3-none-any.whl"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DataError, match="cannot download lite0"):
        prepare_trees(tmp_path / "trees", downloads, TILES)


def test_tiles_that_only_overlap_are_refused():
    with pytest.raises(DataError, match="tiles of 64 pixels cannot share 64"):
        TileSettings(tile=64, overlap=64)


@pytest.mark.slow
def test_the_published_plots_and_weights(tmp_path: Path):
    timm = pytest.importorskip("timm")
    folder = tmp_path / "trees"
    try:
        prepare_trees(folder, tmp_path / "downloads", TileSettings())
    except DataError as error:
        if "cannot download" in str(error):
            pytest.skip(str(error))
        raise
    counts = {}
    for split in ("train", "test"):
        data = json.loads((folder / f"{split}.json").read_text())
        counts[split] = (len(data["images"]), len(data["annotations"]))
        assert read_dataset(folder / f"{split}.json", folder / split, how="full")[1].ok
    assert counts == {"train": (156, 1164), "test": (20, 301)}

    state = torch.load(folder / WEIGHTS_FILE, weights_only=True)
    classifier = timm.create_model("tf_efficientnet_lite0").eval()
    classifier.load_state_dict(state)
    body = timm.create_model("tf_efficientnet_lite0", features_only=True).eval()
    body.load_state_dict({k: v for k, v in state.items() if k in body.state_dict()})
    paths = sorted((folder / "test").iterdir())
    pixels = [np.asarray(Image.open(path).convert("RGB").resize((224, 224))) for path in paths]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        last = classifier.blocks(classifier.bn1(classifier.conv_stem(images)))
        torch.testing.assert_close(body(images)[-1], last)
        likely = classifier(images).softmax(dim=1).mean(dim=0).topk(3).indices.tolist()
    # ImageNet's alp, bubble, cliff, coral reef, geyser, lakeside, promontory, sandbar, seashore and valley.
    assert set(likely) <= set(range(970, 980)), "what the plots look like most"
