import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convbody.detection.data import CocoDataset, DataError, make_synthetic, read_dataset
from convbody.detection.data.geometry import flip_order


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_arguments_give_the_same_files(shapes: Path, tmp_path: Path):
    make_synthetic(tmp_path / "again", images=12, size=64, seed=5)
    assert contents(tmp_path / "again") == contents(shapes)
    make_synthetic(tmp_path / "other", images=12, size=64, seed=6)
    assert contents(tmp_path / "other") != contents(shapes)


def test_an_image_does_not_depend_on_how_many_there_are(shapes: Path, tmp_path: Path):
    make_synthetic(tmp_path, images=3, size=64, seed=5)
    for name, content in contents(tmp_path / "images").items():
        assert content == (shapes / "images" / name).read_bytes()


def test_a_folder_that_holds_the_data_set_is_left_as_it_is(tmp_path: Path):
    ann_file = make_synthetic(tmp_path, images=2, size=64)
    written = ann_file.stat().st_mtime_ns
    make_synthetic(tmp_path, images=2, size=64)
    assert ann_file.stat().st_mtime_ns == written
    make_synthetic(tmp_path, images=3, size=64)
    assert len(json.loads(ann_file.read_text())["images"]) == 3


def test_it_has_no_mistakes(shapes: Path):
    records, report = read_dataset(
        shapes / "annotations.json", shapes / "images", how="full", masks=True, keypoints=True
    )
    assert report.ok, str(report)
    assert {a.category_id for i in range(12) for a in records.objects(i)} == {1, 2, 3}


def test_boxes_fit_masks_and_keypoints_lie_on_their_box(shapes: Path):
    dataset = CocoDataset(shapes / "images", shapes / "annotations.json", masks=True, keypoints=True)
    assert flip_order(dataset.keypoint_names) == [0, 2, 1, 3]
    for i in range(len(dataset)):
        _, target = dataset[i]
        assert 1 <= len(target["boxes"]) <= 4
        for box, mask, keypoints, area in zip(
            target["boxes"], target["masks"], target["keypoints"], target["area"], strict=True
        ):
            rows, columns = np.nonzero(mask.numpy())
            tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(box.numpy(), tight, atol=1.01)
            assert area == mask.sum()
            top, left, right, bottom = keypoints[:, :2]
            assert abs(top[1] - box[1]) < 0.02 and abs(bottom[1] - box[3]) < 0.02
            assert left[0] < right[0] and abs(left[0] - box[0]) < 0.02 and abs(right[0] - box[2]) < 0.02


def test_objects_stand_out_from_the_ground(shapes: Path):
    dataset = CocoDataset(shapes / "images", shapes / "annotations.json", masks=True)
    for i in range(len(dataset)):
        image = np.asarray(Image.open(dataset.image_path(i)), np.float64)
        for mask in dataset[i][1]["masks"].numpy():
            inside = image[mask > 0]
            assert inside.max(axis=1).mean() > 190 and inside.std(axis=0).max() < 20


@pytest.mark.parametrize("wrong", [{"images": 0}, {"images": -2}, {"size": 0}, {"max_objects": 0}])
def test_a_set_that_cannot_be_drawn_is_refused(tmp_path: Path, wrong: dict[str, int]):
    with pytest.raises(DataError, match=str(next(iter(wrong.values())))):
        make_synthetic(tmp_path / "set", **wrong)
    assert not (tmp_path / "set").exists()


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(DataError, match="taken"):
        make_synthetic(tmp_path / "taken", images=1, size=64)
