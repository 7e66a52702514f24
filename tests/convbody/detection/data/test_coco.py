import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from convbody.detection.data import CocoDataset, DataError

PERSON = [{"id": 1, "name": "person", "keypoints": ["nose", "left_eye", "right_eye"]}]


def test_a_sample_is_what_a_detector_takes(make_dataset):
    ann_file = make_dataset(
        [
            {"image_id": 1, "category_id": 3, "bbox": [5, 6, 10, 12], "area": 99.0},
            {"image_id": 1, "category_id": 7, "bbox": [30, 20, 10.5, 10]},
        ]
    )
    image, target = CocoDataset(ann_file.parent / "images", ann_file)[0]
    assert image.shape == (3, 30, 40) and image.dtype == torch.float32
    pixels = np.asarray(Image.open(ann_file.parent / "images" / "1.png"), np.float32)
    torch.testing.assert_close(image, torch.from_numpy(pixels).permute(2, 0, 1) / 255)
    assert target["boxes"].tolist() == [[5, 6, 15, 18], [30, 20, 40, 30]], "the second is cut at the border"
    assert target["boxes"].dtype == torch.float32
    assert target["labels"].tolist() == [1, 2], "labels count the categories in the order of ids, from 1"
    assert target["labels"].dtype == torch.int64
    assert target["area"].tolist() == [99, 105]
    assert target["iscrowd"].tolist() == [0, 0] and target["image_id"] == 1
    assert target["file_name"].endswith("1.png")
    assert "masks" not in target and "keypoints" not in target
    assert all(type(value) is torch.Tensor for value in (image, target["boxes"]))


def test_labels_lead_back_to_categories(make_dataset):
    ann_file = make_dataset([])
    dataset = CocoDataset(ann_file.parent / "images", ann_file)
    assert dataset.class_names == ["dog", "cat"]
    assert dataset.label_to_category == {1: 3, 2: 7}
    assert dataset.category_to_label == {3: 1, 7: 2}
    assert [image.id for image in dataset.images] == [1]


@pytest.mark.parametrize("by_id", [False, True])
def test_categories_of_one_name_are_told_apart_by_their_ids(make_dataset, by_id):
    """Exports that put a name for all of them first are common."""
    names = {4: "fish", 1: "crab", 2: "fish"}
    ann_file = make_dataset([], categories=[{"id": key, "name": name} for key, name in names.items()])
    dataset = CocoDataset(ann_file.parent / "images", ann_file, labels_by_id=by_id)
    assert [name for name in dataset.classes if name] == ["crab", "fish (2)", "fish (4)"]
    assert dataset.category_to_label == ({1: 1, 2: 2, 4: 4} if by_id else {1: 1, 2: 2, 4: 3})


def test_classes_of_a_detector_are_found_by_name(make_dataset):
    ann_file = make_dataset([{"image_id": 1, "category_id": 7, "bbox": [5, 6, 10, 12]}])
    classes = ("bird", None, "cat", "dog")
    dataset = CocoDataset(ann_file.parent / "images", ann_file, classes=classes)
    assert dataset[0][1]["labels"].tolist() == [3]
    assert dataset.label_to_category == {3: 7, 4: 3} and dataset.classes == classes
    assert dataset.class_names == ["bird", "unused", "cat", "dog"]


def test_an_image_without_objects_has_empty_tensors(make_dataset):
    ann_file = make_dataset([], categories=PERSON)
    _, target = CocoDataset(ann_file.parent / "images", ann_file, masks=True, keypoints=True)[0]
    assert target["boxes"].shape == (0, 4) and target["labels"].shape == (0,)
    assert target["masks"].shape == (0, 30, 40) and target["masks"].dtype == torch.uint8
    assert target["keypoints"].shape == (0, 3, 3)


def test_masks_come_from_polygons_and_run_lengths(make_dataset):
    mask = np.zeros((30, 40), np.uint8)
    mask[10:20, 5:25] = 1
    code = coco_mask.encode(np.asfortranarray(mask))
    code["counts"] = code["counts"].decode()
    box = [5, 10, 20, 10]
    ann_file = make_dataset(
        [
            {"image_id": 1, "category_id": 3, "bbox": box, "segmentation": code, "iscrowd": 1},
            {"image_id": 1, "category_id": 3, "bbox": box, "segmentation": [[5, 10, 25, 10, 25, 20, 5, 20]]},
        ]
    )
    _, target = CocoDataset(ann_file.parent / "images", ann_file, masks=True)[0]
    assert target["iscrowd"].tolist() == [1, 0]
    for decoded in target["masks"]:
        np.testing.assert_array_equal(decoded.numpy(), mask)


def test_the_truth_of_an_image_is_there_without_the_image(make_dataset):
    ann_file = make_dataset(
        [
            {
                "image_id": 1,
                "category_id": 3,
                "bbox": [5, 10, 20, 10],
                "segmentation": [[5, 10, 25, 10, 25, 20]],
            }
        ]
    )
    dataset = CocoDataset(ann_file.parent / "images", ann_file, masks=True)
    _, target = dataset[0]
    (ann_file.parent / "images" / "1.png").unlink()
    truth = dataset.truth(0)
    assert truth.keys() == target.keys()
    assert torch.equal(truth["boxes"], target["boxes"]) and type(truth["boxes"]) is torch.Tensor
    assert torch.equal(truth["masks"].part(0).pasted((30, 40)), target["masks"][0])


def test_crowds_can_be_left_out(make_dataset):
    ann_file = make_dataset(
        [
            {"image_id": 1, "category_id": 3, "bbox": [1, 1, 30, 20], "iscrowd": 1},
            {"image_id": 1, "category_id": 7, "bbox": [2, 2, 5, 5], "iscrowd": 0},
        ]
    )
    dataset = CocoDataset(ann_file.parent / "images", ann_file)
    assert dataset.load(0, crowd=False)[1]["labels"].tolist() == [2]
    assert dataset.load(0)[1]["labels"].tolist() == [1, 2]


def test_an_object_in_the_pixel_over_the_border_is_left_out(make_dataset):
    ann_file = make_dataset([{"image_id": 1, "category_id": 3, "bbox": [40.25, 5, 0.5, 4]}])
    assert CocoDataset(ann_file.parent / "images", ann_file)[0][1]["boxes"].shape == (0, 4)


def test_keypoints_that_nobody_labelled_are_zero(make_dataset):
    ann_file = make_dataset(
        [
            {"image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "keypoints": [3, 4, 2, 5, 6, 1, 7, 8, 0]},
            {"image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]},
        ],
        categories=PERSON,
    )
    dataset = CocoDataset(ann_file.parent / "images", ann_file, keypoints=True)
    assert dataset.keypoint_names == ["nose", "left_eye", "right_eye"]
    assert dataset[0][1]["keypoints"].tolist() == [[[3, 4, 2], [5, 6, 1], [0, 0, 0]], [[0, 0, 0]] * 3]


def test_categories_with_different_keypoints_are_refused(make_dataset):
    ann_file = make_dataset([], categories=[*PERSON, {"id": 2, "name": "stone"}])
    with pytest.raises(DataError, match=r"one and the same list \"keypoints\".*\[3, 0\]"):
        CocoDataset(ann_file.parent / "images", ann_file, keypoints=True)


def test_a_corrupt_image_is_named(make_dataset):
    ann_file = make_dataset([])
    path = ann_file.parent / "images" / "1.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=str(path)):
        CocoDataset(ann_file.parent / "images", ann_file)[0]


def test_an_image_of_another_size_is_named(make_dataset):
    ann_file = make_dataset([])
    path = ann_file.parent / "images" / "1.png"
    Image.new("RGB", (20, 30)).save(path)
    with pytest.raises(DataError, match=f"{path} is 20x30, and .* says 40x30"):
        CocoDataset(ann_file.parent / "images", ann_file)[0]


def test_a_file_with_mistakes_is_refused(make_dataset):
    wrong = {"size": [3, 3], "counts": [9]}
    ann_file = make_dataset([{"image_id": 1, "category_id": 3, "bbox": [1, 1, 9, 9], "segmentation": wrong}])
    with pytest.raises(DataError, match=r"ann.json': .* 1 x run-length code of another size than its image"):
        CocoDataset(ann_file.parent / "images", ann_file, masks=True)[0]


def test_indexing_prints_nothing(make_dataset, capsys):
    ann_file = make_dataset([])
    CocoDataset(ann_file.parent / "images", ann_file)
    assert capsys.readouterr().out == ""


def test_labels_may_be_the_category_ids_with_classes_for_the_gaps(make_dataset):
    ann_file = make_dataset([{"image_id": 1, "category_id": 7, "bbox": [5, 6, 10, 12]}])
    dataset = CocoDataset(ann_file.parent / "images", ann_file, labels_by_id=True)
    assert dataset.class_names == ["unused", "unused", "dog", "unused", "unused", "unused", "cat"]
    assert dataset[0][1]["labels"].tolist() == [7]
    assert all(label == category for label, category in dataset.label_to_category.items())


def test_an_id_of_0_cannot_be_a_label(make_dataset):
    ann_file = make_dataset([], categories=[{"id": 0, "name": "fox"}])
    with pytest.raises(DataError, match=r"'fox' has the id 0.*DATASETS.LABELS"):
        CocoDataset(ann_file.parent / "images", ann_file, labels_by_id=True)


def test_a_huge_id_cannot_be_a_label(make_dataset):
    ann_file = make_dataset([], categories=[{"id": 2**60, "name": "fox"}, {"id": 10**7, "name": "hen"}])
    with pytest.raises(DataError, match=r"has the id 10000001.*DATASETS.LABELS"):
        CocoDataset(ann_file.parent / "images", ann_file, labels_by_id=True)
    assert CocoDataset(ann_file.parent / "images", ann_file).class_names == ["hen", "fox"]
