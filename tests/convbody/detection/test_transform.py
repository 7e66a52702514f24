import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convbody.detection.transform import DetectionTransform, resized_size
from registry import load_cfg


def transform(*opts, size_divisibility=32):
    return DetectionTransform(
        load_cfg(None, ["INPUT.MIN_SIZE_TEST", 60, "INPUT.MAX_SIZE_TEST", 100, *opts]), size_divisibility
    )


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 1000), st.integers(1, 2000))
def test_one_side_is_as_configured_and_neither_is_longer(height, width, short, longest):
    new = resized_size(height, width, short, longest)
    wanted = resized_size(width, height, short, longest)
    assert new == wanted[::-1]
    assert max(new) <= longest and min(new) <= max(short, 1)
    assert min(new) == short or max(new) == longest
    if min(new) > 20:
        assert new[0] / new[1] == pytest.approx(height / width, rel=0.06)


def test_published_colours_are_bgr_in_255_minus_the_mean():
    image = torch.zeros(3, 4, 4)
    image[0] = 1.0  # red
    mean = torch.tensor([102.9801, 115.9465, 122.7717])
    expected = torch.tensor([0.0, 0.0, 255.0]) - mean
    torch.testing.assert_close(transform().normalize(image)[:, 0, 0], expected)


def test_other_weights_want_rgb_in_1():
    opts = [
        "INPUT.TO_BGR255",
        False,
        "INPUT.PIXEL_MEAN",
        [0.5, 0.25, 0.0],
        "INPUT.PIXEL_STD",
        [0.5, 0.25, 1.0],
    ]
    image = torch.tensor([1.0, 0.5, 0.25])[:, None, None].expand(3, 4, 4)
    torch.testing.assert_close(transform(*opts).normalize(image)[:, 0, 0], torch.tensor([1.0, 1.0, 0.25]))


def test_training_images_keep_their_size_and_test_images_do_not():
    images = [torch.rand(3, 30, 40), torch.rand(3, 20, 50)]
    change = transform(size_divisibility=16)
    assert change(images)[0].image_sizes == [(30, 40), (20, 50)]
    assert change(images)[0].tensors.shape == (2, 3, 32, 64)
    assert change.eval()(images)[0].image_sizes == [(60, 80), (40, 100)]
    assert change(images)[0].tensors.shape == (2, 3, 64, 112)


def test_padding_is_zero_at_the_right_and_bottom_and_as_configured():
    batch, _ = transform("DATALOADER.SIZE_DIVISIBILITY", 50)([torch.rand(3, 30, 60)])
    assert batch.tensors.shape == (1, 3, 50, 100)
    assert (batch.tensors[:, :, 30:] == 0).all() and (batch.tensors[:, :, :, 60:] == 0).all()
    assert (batch.tensors[:, :, :30, :60] != 0).any()


def test_a_short_side_of_zero_leaves_images_in_their_own_size():
    change = transform("INPUT.MIN_SIZE_TEST", 0).eval()
    image = torch.rand(3, 300, 40)  # longer than MAX_SIZE_TEST
    batch, _ = change([image])
    assert batch.image_sizes == [(300, 40)]
    assert torch.equal(batch.tensors[0, :, :300, :40], change.normalize(image))


def test_bytes_are_the_floats_that_they_stand_for():
    image = torch.randint(256, (3, 20, 30), dtype=torch.uint8)
    change = transform().eval()
    torch.testing.assert_close(change([image])[0].tensors, change([image / 255])[0].tensors)


def test_shrinking_averages_instead_of_picking_pixels():
    stripes = torch.zeros(3, 240, 240)
    stripes[:, :, ::2] = 1.0
    opts = ["INPUT.TO_BGR255", False, "INPUT.PIXEL_MEAN", [0.0] * 3, "INPUT.PIXEL_STD", [1.0] * 3]
    batch, _ = transform(*opts).eval()([stripes])
    assert batch.tensors.sub(0.5)[:, :, :60, 2:58].abs().max() < 0.1


def test_results_come_back_in_pixels_of_the_image_given():
    box = torch.tensor([[10.0, 20.0, 30.0, 40.0]])
    result = {
        "boxes": box,
        "masks": torch.ones(1, 1, 28, 28),
        "keypoints": torch.tensor([[[10.0, 20.0, 1.0]]]),
    }
    (back,) = transform().eval().postprocess([result], [(60, 80)], [(30, 20)])
    torch.testing.assert_close(back["boxes"], torch.tensor([[2.5, 10.0, 7.5, 20.0]]))
    torch.testing.assert_close(back["keypoints"], torch.tensor([[[2.5, 10.0, 1.0]]]))
    mask = back["masks"].pasted()
    assert mask.shape == (1, 1, 30, 20)
    assert mask[0, 0, 15, 5] == 1 and mask[0, 0, 25, 15] == 0
