import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from convbody.detection.data.coco import plain
from convbody.detection.data.transforms import train_transforms
from registry import ConfigError, load_cfg

HEIGHT, WIDTH = 20, 40
# Keypoints: nose, left eye, right eye.
ORDER = [0, 2, 1]


def sample():
    """One object at x 4 to 14 and y 2 to 8, with mask and keypoints; the right eye is not labelled."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (3, HEIGHT, WIDTH), generator=generator, dtype=torch.uint8)
    mask = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.uint8)
    mask[:, 2:8, 4:14] = 1
    points = torch.tensor([[[8.0, 5.0], [6.0, 3.0], [0.0, 0.0]]])
    canvas = (HEIGHT, WIDTH)
    target = {
        "boxes": tv_tensors.BoundingBoxes([[4.0, 2.0, 14.0, 8.0]], format="XYXY", canvas_size=canvas),
        "labels": torch.tensor([1]),
        "area": torch.tensor([60.0]),
        "masks": tv_tensors.Mask(mask),
        "points": tv_tensors.KeyPoints(points, canvas_size=canvas),
        "visibility": torch.tensor([[2.0, 1.0, 0.0]]),
    }
    return tv_tensors.Image(image), target


def transformed(*opts):
    keys = ["INPUT.MIN_SIZE_TRAIN", (HEIGHT,), "INPUT.HORIZONTAL_FLIP_PROB_TRAIN", 0.0, *opts]
    return plain(*train_transforms(load_cfg(None, keys), ORDER)(*sample()))


def test_without_augmentation_nothing_changes():
    image, target = transformed()
    before, _ = sample()
    torch.testing.assert_close(image, before.as_subclass(torch.Tensor) / 255)
    assert target["boxes"].tolist() == [[4, 2, 14, 8]]
    assert target["keypoints"].tolist() == [[[8, 5, 2], [6, 3, 1], [0, 0, 0]]]
    assert type(image) is type(target["masks"]) is torch.Tensor


def test_a_mirrored_image_takes_all_with_it():
    image, target = transformed("INPUT.HORIZONTAL_FLIP_PROB_TRAIN", 1.0)
    torch.testing.assert_close(image, transformed()[0].flip(-1))
    assert target["boxes"].tolist() == [[WIDTH - 14, 2, WIDTH - 4, 8]]
    assert target["masks"][0].nonzero().amin(0).tolist() == [2, WIDTH - 14]
    # Points count pixels, so the first and the last one change places; a left eye becomes the right one.
    assert target["keypoints"].tolist() == [[[WIDTH - 9, 5, 2], [0, 0, 0], [WIDTH - 7, 3, 1]]]


def test_an_upside_down_image_takes_all_with_it():
    image, target = transformed("INPUT.VERTICAL_FLIP_PROB_TRAIN", 1.0)
    torch.testing.assert_close(image, transformed()[0].flip(-2))
    assert target["boxes"].tolist() == [[4, HEIGHT - 8, 14, HEIGHT - 2]]
    assert target["masks"][0].nonzero().amin(0).tolist() == [HEIGHT - 8, 4]
    assert target["keypoints"].tolist() == [[[8, HEIGHT - 6, 2], [0, 0, 0], [6, HEIGHT - 4, 1]]]


def test_mirroring_twice_restores_the_sample():
    twice = v2.Compose(
        [train_transforms(load_cfg(None, ["INPUT.HORIZONTAL_FLIP_PROB_TRAIN", 1.0]), ORDER)] * 2
    )
    _, target = plain(*twice(*sample()))
    scale = 800 / HEIGHT * min(1, 1333 / (WIDTH * 800 / HEIGHT))
    torch.testing.assert_close(target["boxes"], torch.tensor([[4.0, 2, 14, 8]]) * scale, rtol=0.01, atol=0)
    assert target["keypoints"][0, :, 2].tolist() == [2, 1, 0]


def test_resizing_scales_boxes_masks_points_and_areas():
    image, target = transformed("INPUT.MIN_SIZE_TRAIN", (40,))
    assert image.shape == (3, 40, 80)
    assert target["boxes"].tolist() == [[8, 4, 28, 16]]
    assert target["area"].tolist() == [240]
    assert target["masks"].shape == (1, 40, 80) and target["masks"].sum() == 240
    assert target["keypoints"].tolist() == [[[16, 10, 2], [12, 6, 1], [0, 0, 0]]]


def test_the_long_side_wins():
    image, _ = transformed("INPUT.MIN_SIZE_TRAIN", (40,), "INPUT.MAX_SIZE_TRAIN", 60)
    assert image.shape == (3, 30, 60)


def test_short_sides_are_drawn_from_the_list_or_the_range():
    listed = {transformed("INPUT.MIN_SIZE_TRAIN", (20, 30))[0].shape[1] for _ in range(30)}
    assert listed == {20, 30}
    ranged = {transformed("INPUT.MIN_SIZE_RANGE_TRAIN", (21, 23))[0].shape[1] for _ in range(40)}
    assert ranged == {21, 22, 23}


@pytest.mark.parametrize("key", ["BRIGHTNESS", "CONTRAST", "SATURATION", "HUE"])
def test_jitter_changes_colours_and_nothing_else(key):
    image, target = transformed(f"INPUT.{key}", 0.5)
    assert (image - transformed()[0]).abs().mean() > 0.005
    assert image.min() >= 0 and image.max() <= 1
    assert target["boxes"].tolist() == [[4, 2, 14, 8]]


def test_jitters_come_in_the_order_that_is_configured():
    strengths = ["INPUT.BRIGHTNESS", 0.9, "INPUT.SATURATION", 0.9]

    def jittered(order):
        torch.manual_seed(3)
        names = (*order, *(n for n in ("brightness", "contrast", "saturation", "hue") if n not in order))
        return transformed(*strengths, "INPUT.JITTER_ORDER", names)[0]

    torch.manual_seed(3)
    image = sample()[0]
    steps = [v2.ColorJitter(saturation=0.9), v2.ColorJitter(brightness=0.9)]
    expected = v2.Compose(steps)(image).as_subclass(torch.Tensor) / 255
    torch.testing.assert_close(jittered(["saturation", "brightness"]), expected)
    assert not torch.equal(jittered(["brightness", "saturation"]), expected)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("INPUT.MIN_SIZE_TRAIN", ()),
        ("INPUT.MIN_SIZE_RANGE_TRAIN", (9, 8)),
        ("INPUT.HUE", 0.7),
        ("INPUT.CONTRAST", -0.1),
        ("INPUT.JITTER_ORDER", ("hue",)),
    ],
)
def test_values_that_make_no_sense_are_refused_by_their_key(key, value):
    with pytest.raises(ConfigError, match=key):
        transformed(key, value)


def test_an_image_without_objects_is_augmented():
    image, target = sample()
    target = {
        key: tv_tensors.wrap(value[:0], like=value) if isinstance(value, tv_tensors.TVTensor) else value[:0]
        for key, value in target.items()
    }
    keys = ["INPUT.MIN_SIZE_TRAIN", (40,), "INPUT.HORIZONTAL_FLIP_PROB_TRAIN", 1.0, "INPUT.HUE", 0.1]
    image, target = plain(*train_transforms(load_cfg(None, keys), ORDER)(image, target))
    assert image.shape == (3, 40, 80)
    assert target["boxes"].shape == (0, 4) and target["masks"].shape == (0, 40, 80)
    assert target["keypoints"].shape == (0, 3, 3)
