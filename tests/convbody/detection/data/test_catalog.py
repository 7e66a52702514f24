from pathlib import Path

import pytest

from convbody.data.errors import DataError
from convbody.detection.data.catalog import catalog, find_dataset
from registry import ConfigError, get_cfg, load_cfg


def test_the_published_names_are_known(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CONVBODY_DATASETS", "/data")
    entries = catalog(get_cfg())
    minival = entries["coco_2014_minival"]
    assert minival.image_dir == Path("/data/coco/val2014")
    assert minival.ann_file == Path("/data/coco/annotations/instances_minival2014.json")
    keypoints = entries["keypoints_coco_2014_train"].ann_file
    assert keypoints == Path("/data/coco/annotations/person_keypoints_train2014.json")
    assert {
        "coco_2014_train",
        "coco_2014_valminusminival",
        "coco_2017_train",
        "coco_2017_val",
        "voc_2007_test_cocostyle",
        "voc_2012_train_cocostyle",
        "cityscapes_fine_instanceonly_seg_train_cocostyle",
    } <= set(entries)


def test_without_the_variable_they_are_under_datasets(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CONVBODY_DATASETS", raising=False)
    assert catalog(get_cfg())["trees_train"].image_dir == Path("datasets/trees/train")


def test_a_config_adds_and_replaces_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CONVBODY_DATASETS", str(tmp_path / "root"))
    path = tmp_path / "c.yaml"
    path.write_text(
        "DATASETS:\n  CATALOG:\n"
        "    cats: {image_dir: cats/images, ann_file: /elsewhere/cats.json}\n"
        "    coco_2017_val: {image_dir: a, ann_file: b}\n"
    )
    entries = catalog(load_cfg(path))
    assert entries["cats"].image_dir == tmp_path / "root/cats/images"
    assert entries["cats"].ann_file == Path("/elsewhere/cats.json")
    assert entries["coco_2017_val"].ann_file == tmp_path / "root/b"


def test_an_entry_with_other_fields_is_refused():
    cfg = load_cfg(None, ["DATASETS.CATALOG.cats.image_dir", "a", "DATASETS.CATALOG.cats.annotations", "b"])
    with pytest.raises(ConfigError, match="'cats' needs the two fields image_dir and ann_file"):
        catalog(cfg)


def test_an_unknown_name_gives_the_nearest_and_where_it_was_set(tmp_path: Path):
    path = tmp_path / "c.yaml"
    path.write_text("DATASETS:\n  TRAIN: [coco_2017_trian]\n")
    with pytest.raises(ConfigError, match=r"'coco_2017_trian'.*coco_2017_train.*DATASETS\.TRAIN.*c\.yaml:2"):
        find_dataset(load_cfg(path), "coco_2017_trian", "DATASETS.TRAIN")


def test_what_is_missing_is_told_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CONVBODY_DATASETS", str(tmp_path))
    ann_file = tmp_path / "coco/annotations/instances_val2017.json"
    with pytest.raises(DataError, match="CONVBODY_DATASETS") as caught:
        find_dataset(get_cfg(), "coco_2017_val")
    assert f"no annotation file at {ann_file}" in str(caught.value)
    ann_file.parent.mkdir(parents=True)
    ann_file.touch()
    with pytest.raises(DataError, match=f"no image folder at {tmp_path / 'coco/val2017'}"):
        find_dataset(get_cfg(), "coco_2017_val")
    with pytest.raises(DataError, match="tools/prepare_data.py trees"):
        find_dataset(get_cfg(), "trees_test")
