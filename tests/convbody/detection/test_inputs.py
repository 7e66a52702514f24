import pytest
import torch

from convbody.detection.inputs import InputError, TargetNeeds, check_images, check_targets

GOOD = torch.linspace(0, 1, 3 * 8 * 8).view(3, 8, 8)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(1, 8, 8), r"image 1 has shape \(1, 8, 8\)"),
        (torch.rand(3, 8), r"image 1 has shape \(3, 8\)"),
        (torch.rand(3, 0, 8), r"image 1 has shape \(3, 0, 8\)"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "image 1 is int64"),
        (GOOD.double(), "image 1 is float64, the model float32"),
        (GOOD * 255, "image 1 has values up to 2"),
        (GOOD * float("nan"), "image 1 has a value that is not finite"),
        (-GOOD / 0, "image 1 has a value that is not finite"),
        ([[0.0]], "image 1 is a list"),
    ],
)
def test_an_image_that_is_none_is_named(image, message):
    with pytest.raises(InputError, match=message) as caught:
        check_images([GOOD, image])
    assert "\n" not in str(caught.value)


def test_bytes_are_for_float32_models():
    with pytest.raises(InputError, match="image 0 is uint8, the model float64"):
        check_images([(GOOD * 255).to(torch.uint8)], torch.float64)


def test_an_empty_batch_is_refused():
    with pytest.raises(InputError, match="no image"):
        check_images([])


def target(**changes):
    good = {
        "boxes": torch.tensor([[1.0, 1.0, 4.0, 5.0]]),
        "labels": torch.tensor([2]),
        "masks": torch.zeros(1, 8, 8, dtype=torch.uint8),
        "keypoints": torch.zeros(1, 2, 3),
    }
    return {**good, **changes}


NEEDS = TargetNeeds(num_classes=3, masks=True, keypoints=2)
EMPTY = {
    "boxes": torch.zeros(0, 4),
    "labels": torch.zeros(0, dtype=torch.int64),
    "masks": torch.zeros(0, 8, 8),
    "keypoints": torch.zeros(0, 2, 3),
}


def test_good_and_empty_targets_pass():
    check_images([GOOD, GOOD * 1.5 - 0.2, (GOOD * 255).to(torch.uint8)])
    check_targets([GOOD, GOOD], [target(), EMPTY], NEEDS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": torch.tensor([0])}, r"object 0: label 0 is outside 1\.\.2"),
        ({"labels": torch.tensor([3])}, r"object 0: label 3 is outside 1\.\.2"),
        ({"labels": torch.tensor([1.0])}, r"labels are float32 \(1,\)"),
        ({"labels": torch.tensor([1, 1])}, "1 boxes and 2 labels"),
        ({"boxes": torch.tensor([[4.0, 1.0, 1.0, 5.0]])}, r"object 0: box \[4.0, 1.0, 1.0, 5.0\]"),
        ({"boxes": torch.tensor([[1.0, 5.0, 4.0, 5.0]])}, "object 0: box"),
        ({"boxes": torch.tensor([[1.0, 1.0, float("inf"), 5.0]])}, "not finite"),
        ({"boxes": torch.tensor([[1, 1, 4, 5]])}, r"boxes are int64 \(1, 4\)"),
        ({"boxes": torch.rand(1, 5)}, r"boxes are float32 \(1, 5\)"),
        ({"masks": None}, "no tensor 'masks'"),
        ({"masks": torch.zeros(1, 8, 9)}, r"masks are float32 \(1, 8, 9\)"),
        ({"keypoints": torch.zeros(1, 5, 3)}, r"give \(N, 2, 3\)"),
    ],
)
def test_a_target_that_cannot_be_learnt_is_named(changes, message):
    with pytest.raises(InputError, match=message) as caught:
        check_targets([GOOD, GOOD], [EMPTY, target(**changes)], NEEDS)
    assert str(caught.value).startswith("target 1")
    assert "\n" not in str(caught.value)


def test_a_target_that_is_no_dict_is_named():
    with pytest.raises(InputError, match="target 1 is a list"):
        check_targets([GOOD, GOOD], [EMPTY, [1]], NEEDS)


def test_missing_targets_are_refused():
    with pytest.raises(InputError, match="training needs targets"):
        check_targets([GOOD], None, NEEDS)
    with pytest.raises(InputError, match="2 images and 1 targets"):
        check_targets([GOOD, GOOD], [target()], NEEDS)


def test_only_what_the_model_trains_on_is_looked_at():
    bare = {key: value for key, value in target().items() if key in ("boxes", "labels")}
    check_targets([GOOD], [{**bare, "labels": torch.tensor([99])}], TargetNeeds(num_classes=None))
