import json
from itertools import islice

import pytest
import torch
from PIL import Image

from convbody.data import batches
from convbody.detection.data import (
    DataError,
    Known,
    build_test_dataset,
    build_train_batches,
    check_class_count,
    train_datasets,
)
from convbody.detection.inputs import TargetNeeds
from registry import ConfigError, load_cfg

BOX = {"category_id": 3, "bbox": [5, 6, 10, 12]}
AUGMENTED = ["INPUT.MIN_SIZE_TRAIN", (48, 64), "INPUT.BRIGHTNESS", 0.3, "INPUT.HUE", 0.1]
WITH_EVERYTHING = ["MODEL.MASK_ON", True, "MODEL.KEYPOINT_ON", True, "DATASETS.MIN_KEYPOINTS", 1]


@pytest.fixture
def shapes_cfg(shapes, cfg_for):
    def build(*opts):
        return cfg_for(shapes / "images", shapes / "annotations.json", *opts)

    return build


def assert_same(first, second):
    images, targets = first
    others, other_targets = second
    assert all(torch.equal(a, b) for a, b in zip(images, others, strict=True))
    for a, b in zip(targets, other_targets, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert torch.equal(a[key], b[key]) if isinstance(a[key], torch.Tensor) else a[key] == b[key]


def test_a_batch_is_what_a_detector_takes(shapes_cfg):
    images, targets = next(build_train_batches(shapes_cfg(*WITH_EVERYTHING))(0))
    assert len(images) == len(targets) == 4
    for image, target in zip(images, targets, strict=True):
        assert image.shape == (3, 64, 64) and image.dtype == torch.float32
        assert image.min() >= 0 and image.max() <= 1
        objects = len(target["boxes"])
        assert objects and target["labels"].shape == (objects,)
        assert target["masks"].shape == (objects, 64, 64) and target["masks"].dtype == torch.uint8
        assert target["keypoints"].shape == (objects, 4, 3)


def test_masks_and_keypoints_come_only_where_they_are_used(shapes_cfg):
    _, targets = next(build_train_batches(shapes_cfg())(0))
    assert "masks" not in targets[0] and "keypoints" not in targets[0]


def test_batches_do_not_depend_on_workers_or_on_where_a_run_starts(shapes_cfg):
    whole = list(islice(build_train_batches(shapes_cfg(*AUGMENTED))(0), 6))
    in_workers = build_train_batches(shapes_cfg(*AUGMENTED, "DATALOADER.NUM_WORKERS", 2))
    for batch, other in zip(whole, in_workers(0), strict=False):
        assert_same(batch, other)
    for batch, other in zip(whole[4:], in_workers(4), strict=False):
        assert_same(batch, other)


def test_an_image_is_augmented_anew_each_time_and_by_the_seed(shapes_cfg):
    def brightness(*opts):
        batches = islice(build_train_batches(shapes_cfg("INPUT.BRIGHTNESS", 0.5, *opts))(0), 9)
        return {
            (target["image_id"], round(float(image.mean()), 5))
            for images, targets in batches
            for image, target in zip(images, targets, strict=True)
        }

    assert len(brightness()) == 36, "three epochs over twelve images"
    assert not brightness() & brightness("SEED", 1)


def test_the_global_random_state_is_left_alone(shapes_cfg):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    list(islice(build_train_batches(shapes_cfg(*AUGMENTED))(0), 2))
    next(build_train_batches(shapes_cfg(*AUGMENTED, "DATALOADER.NUM_WORKERS", 1))(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_global_random_state_has_no_influence(shapes_cfg):
    torch.manual_seed(1)
    first = next(build_train_batches(shapes_cfg(*AUGMENTED))(0))
    torch.manual_seed(2)
    assert_same(first, next(build_train_batches(shapes_cfg(*AUGMENTED))(0)))


@pytest.mark.parametrize(("device", "pinned"), [("cpu", False), ("cuda", True)])
def test_batches_for_a_gpu_are_in_locked_memory(shapes_cfg, monkeypatch, device, pinned):
    asked = []

    class Loader(torch.utils.data.DataLoader):
        def __init__(self, *args, pin_memory, **options):
            asked.append(pin_memory)
            super().__init__(*args, **options)

    monkeypatch.setattr(batches, "DataLoader", Loader)
    monkeypatch.setattr(batches, "device_for", lambda cfg: torch.device(device))
    next(build_train_batches(shapes_cfg())(0))
    assert asked == [pinned]


def test_batches_are_of_one_aspect(make_dataset, cfg_for):
    sizes = ((40, 30), (30, 40)) * 4
    ann_file = make_dataset([{"image_id": i, **BOX} for i in range(1, 9)], sizes)
    batches = build_train_batches(cfg_for(ann_file.parent / "images", ann_file))
    for images, _ in islice(batches(0), 6):
        assert len({image.shape[1] > image.shape[2] for image in images}) == 1
    mixed = build_train_batches(
        cfg_for(ann_file.parent / "images", ann_file, "DATALOADER.ASPECT_RATIO_GROUPING", False)
    )
    assert any(len({i.shape[1] > i.shape[2] for i in images}) == 2 for images, _ in islice(mixed(0), 6))


def seen(cfg):
    return {target["image_id"] for _, targets in islice(build_train_batches(cfg)(0), 8) for target in targets}


def test_images_without_objects_train_only_where_asked_for(make_dataset, cfg_for):
    # 1 has an object, 2 none, 3 only a crowd, 4 only a speck.
    ann_file = make_dataset(
        [
            {"image_id": 1, **BOX},
            {"image_id": 3, **BOX, "iscrowd": 1},
            {"image_id": 4, "category_id": 3, "bbox": [5, 5, 1, 1]},
        ],
        sizes=((40, 30),) * 4,
    )
    cfg = cfg_for(ann_file.parent / "images", ann_file)
    assert seen(cfg) == {1}
    cfg.DATASETS.KEEP_EMPTY = True
    assert seen(cfg) == {1, 2, 3, 4}
    targets = [t for _, targets in islice(build_train_batches(cfg)(0), 8) for t in targets]
    assert {t["image_id"]: len(t["boxes"]) for t in targets} == {1: 1, 2: 0, 3: 0, 4: 1}
    assert all(t["boxes"].shape[1:] == (4,) for t in targets)


def test_nothing_to_train_on_is_said(make_dataset, cfg_for):
    ann_file = make_dataset([])
    with pytest.raises(ConfigError, match="KEEP_EMPTY"):
        build_train_batches(cfg_for(ann_file.parent / "images", ann_file))
    with pytest.raises(ConfigError, match=r"no data set to train on.*DATASETS\.TRAIN"):
        build_train_batches(load_cfg(None))


def test_keypoint_training_needs_enough_labelled_keypoints(make_dataset, cfg_for):
    people = [{"id": 1, "name": "person", "keypoints": ["nose", "left_eye", "right_eye"]}]
    person = {"category_id": 1, "bbox": [5, 6, 10, 12]}
    ann_file = make_dataset(
        [
            {"image_id": 1, **person, "keypoints": [6, 7, 2, 8, 8, 1, 0, 0, 0]},
            {"image_id": 2, **person, "keypoints": [6, 7, 2, 0, 0, 0, 0, 0, 0]},
        ],
        sizes=((40, 30),) * 2,
        categories=people,
    )
    opts = ["MODEL.KEYPOINT_ON", True, "DATASETS.MIN_KEYPOINTS", 2]
    assert seen(cfg_for(ann_file.parent / "images", ann_file, *opts)) == {1}
    assert seen(cfg_for(ann_file.parent / "images", ann_file)) == {1, 2}


def test_several_data_sets_are_joined(make_dataset, cfg_for):
    first = make_dataset([{"image_id": 1, **BOX}], folder="first")
    second = make_dataset([{"image_id": 2, **BOX}], sizes=((40, 30), (40, 30)), folder="second")
    cfg = cfg_for(first.parent / "images", first)
    cfg.DATASETS.CATALOG["other"] = {"image_dir": str(second.parent / "images"), "ann_file": str(second)}
    cfg.DATASETS.TRAIN = ("mine", "other")
    assert seen(cfg) == {1, 2}


def two_sets(make_dataset, cfg_for, objects, categories):
    """A config that trains on "mine", with a dog on image 1, and on "other"."""
    first = make_dataset([{"image_id": 1, **BOX}], folder="first")
    second = make_dataset(objects, categories=categories, folder="second")
    cfg = cfg_for(first.parent / "images", first)
    cfg.DATASETS.CATALOG["other"] = {"image_dir": str(second.parent / "images"), "ann_file": str(second)}
    cfg.DATASETS.TRAIN = ("mine", "other")
    return cfg


def test_joined_data_sets_have_one_label_for_each_name(make_dataset, cfg_for):
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    objects = [{"image_id": 1, **BOX, "category_id": key} for key in (1, 2)]
    mine, other = train_datasets(two_sets(make_dataset, cfg_for, objects, categories))
    assert mine.classes == other.classes == ("dog", "cat")
    assert other[0][1]["labels"].tolist() == [2, 1]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["cat", "tree"], "'other' has the classes cat, tree, and data set 'mine' dog, cat, without tree"),
        (["cat"], "'other' has the classes cat, and data set 'mine' dog, cat, with dog, too"),
    ],
)
def test_data_sets_with_other_classes_are_not_joined(make_dataset, cfg_for, names, words):
    categories = [{"id": key, "name": name} for key, name in enumerate(names)]
    with pytest.raises(ConfigError, match=rf"{words}.*DATASETS\.TRAIN"):
        train_datasets(two_sets(make_dataset, cfg_for, [], categories))


def test_keypoints_have_the_same_names_in_the_same_order(make_dataset, cfg_for):
    person = {"id": 1, "name": "person", "keypoints": ["nose", "left_eye"]}
    ann_file = make_dataset([], categories=[person])
    cfg = cfg_for(ann_file.parent / "images", ann_file, "MODEL.KEYPOINT_ON", True)
    known = Known(("person",), ["left_eye", "nose"], "best.pth")
    with pytest.raises(ConfigError, match="'mine' has the keypoints nose, left_eye, and best.pth left_e"):
        build_test_dataset(cfg, "mine", known)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_breaks_later_is_named_in_one_line(make_dataset, cfg_for, workers):
    ann_file = make_dataset([{"image_id": 1, **BOX}])
    batches = build_train_batches(
        cfg_for(ann_file.parent / "images", ann_file, "DATALOADER.NUM_WORKERS", workers)
    )
    path = ann_file.parent / "images" / "1.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=f"cannot read image {path}") as caught:
        next(batches(0))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_breaks_later_is_left_out_and_named(make_dataset, cfg_for, caplog, workers):
    # 1 to 3 are landscape, 4 and 5 portrait.
    sizes = ((40, 30),) * 3 + ((30, 40),) * 2
    ann_file = make_dataset([{"image_id": i, **BOX} for i in range(1, 6)], sizes)
    options = ["DATALOADER.NUM_WORKERS", workers, "DATASETS.ON_ERROR", "skip", "SOLVER.IMS_PER_BATCH", 2]
    batches = build_train_batches(cfg_for(ann_file.parent / "images", ann_file, *options))
    whole = list(islice(batches(0), 10))
    for broken in (2, 4):
        (ann_file.parent / "images" / f"{broken}.png").write_bytes(b"gone")
    seen = list(islice(batches(0), 10))
    for (images, targets), (_, before) in zip(seen, whole, strict=True):
        assert len(images) == 2, "a batch stays whole"
        assert len({image.shape[1] > image.shape[2] for image in images}) == 1, "and of one aspect"
        ids = [(target["image_id"], other["image_id"]) for target, other in zip(targets, before, strict=True)]
        assert all(now not in (2, 4) and (now == old or old in (2, 4)) for now, old in ids)
    for batch, again in zip(islice(batches(4), 6), seen[4:], strict=True):
        assert_same(batch, again)
    report = batches.unread.report("training")
    assert len(report) == 2 and all("not an image" in line for line in report)
    assert caplog.text.count("2.png") == 2, "once when it is met, and once at the end"
    assert "2 images left out of training, as DATASETS.ON_ERROR says" in caplog.text


def test_a_folder_that_is_gone_ends_the_run_all_the_same(make_dataset, cfg_for):
    ann_file = make_dataset([{"image_id": i, **BOX} for i in (1, 2)], sizes=((40, 30),) * 2)
    batches = build_train_batches(cfg_for(ann_file.parent / "images", ann_file, "DATASETS.ON_ERROR", "skip"))
    for i in (1, 2):
        (ann_file.parent / "images" / f"{i}.png").unlink()
    with pytest.raises(DataError, match="2 images in a row cannot be read, the last of them: .*no such file"):
        next(batches(0))


def test_mistakes_stop_a_run_or_are_left_out(make_dataset, cfg_for, caplog):
    ann_file = make_dataset(
        [
            {"image_id": 1, **BOX},
            {"image_id": 1, "category_id": 3, "bbox": [1, 1, -4, 4]},
            {"image_id": 2, **BOX},
        ],
        sizes=((40, 30),) * 2,
    )
    (ann_file.parent / "images" / "2.png").unlink()
    cfg = cfg_for(ann_file.parent / "images", ann_file)
    for build in (build_train_batches, lambda cfg: build_test_dataset(cfg, "mine")):
        with pytest.raises(DataError, match=r"1 x image missing: .*2\.png.*; 1 x box that is inverted"):
            build(cfg)
    cfg.DATASETS.ON_ERROR = "skip"
    dataset = build_test_dataset(cfg, "mine")
    assert len(dataset) == 1 and len(dataset[0][1]["boxes"]) == 1
    assert len(dataset.objects(0)) == 1, "the evaluation does not see what was left out"
    assert "1 x image missing" in caplog.text
    assert seen(cfg) == {1}


def test_how_much_of_the_images_is_checked_is_configured(make_dataset, cfg_for):
    ann_file = make_dataset([{"image_id": 1, **BOX}])
    path = ann_file.parent / "images" / "1.png"
    content = path.read_bytes()
    path.write_bytes(content[:200] + b"\0" * (len(content) - 300) + content[-100:])
    opts = "DATASETS.CHECK_IMAGES"
    build_test_dataset(cfg_for(ann_file.parent / "images", ann_file, opts, "quick"), "mine")
    with pytest.raises(DataError, match="image that cannot be read"):
        build_test_dataset(cfg_for(ann_file.parent / "images", ann_file, opts, "full"), "mine")
    path.unlink()
    build_test_dataset(cfg_for(ann_file.parent / "images", ann_file, opts, "none"), "mine")


@pytest.mark.parametrize("key", ["DATASETS.ON_ERROR", "DATASETS.CHECK_IMAGES"])
def test_a_choice_that_does_not_exist_is_refused(shapes_cfg, key):
    with pytest.raises(ConfigError, match=f"choose one of .*{key}"):
        build_train_batches(shapes_cfg(key, "ignore"))


def test_a_test_data_set_keeps_every_image_in_its_own_size(make_dataset, cfg_for):
    ann_file = make_dataset([{"image_id": 1, **BOX}], sizes=((40, 30), (20, 50)))
    dataset = build_test_dataset(cfg_for(ann_file.parent / "images", ann_file), "mine")
    assert [tuple(dataset[i][0].shape) for i in range(len(dataset))] == [(3, 30, 40), (3, 50, 20)]


def test_a_data_set_without_images_is_an_error(make_dataset, cfg_for):
    ann_file = make_dataset([])
    ann_file.write_text(json.dumps({"images": [], "categories": [{"id": 1, "name": "a"}]}))
    with pytest.raises(DataError, match="has no images"):
        build_test_dataset(cfg_for(ann_file.parent / "images", ann_file), "mine")


def test_the_number_of_classes_counts_the_background(make_dataset, cfg_for):
    ann_file = make_dataset([])
    key = "MODEL.ROI_BOX_HEAD.NUM_CLASSES"
    cfg = cfg_for(ann_file.parent / "images", ann_file)
    dataset = build_test_dataset(cfg, "mine")
    for count in (3, None):  # None: labels play no part
        check_class_count(cfg, TargetNeeds(count, class_key=key), dataset)
    with pytest.raises(ConfigError, match=rf"2 classes.*makes 3, .*made for 81 \({key} = 81"):
        check_class_count(cfg, TargetNeeds(81, class_key=key), dataset)


def test_a_batch_of_no_images_is_refused(shapes_cfg):
    with pytest.raises(ConfigError, match=r"SOLVER\.IMS_PER_BATCH"):
        build_train_batches(shapes_cfg("SOLVER.IMS_PER_BATCH", 0))


def test_grey_images_train_as_colour(make_dataset, cfg_for):
    ann_file = make_dataset([{"image_id": 1, **BOX}])
    Image.new("L", (40, 30), 128).save(ann_file.parent / "images" / "1.png")
    images, _ = next(build_train_batches(cfg_for(ann_file.parent / "images", ann_file))(0))
    assert images[0].shape[0] == 3 and images[0].unique().tolist() == pytest.approx([128 / 255])
