import pytest
import torch
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import _default_anchorgen

from convbody.detection.heads.anchors import CONVENTIONS, Anchors, cell_anchors
from registry import ConfigError

# Girshick's Faster R-CNN anchors of the first cell, stride 16, both corners inside the box.
PUBLISHED = [
    [-84, -40, 99, 55],
    [-176, -88, 191, 103],
    [-360, -184, 375, 199],
    [-56, -56, 71, 71],
    [-120, -120, 135, 135],
    [-248, -248, 263, 263],
    [-36, -80, 51, 95],
    [-80, -168, 95, 183],
    [-168, -344, 183, 359],
]


def grid(generator, *sizes):
    features = [torch.zeros(1, 4, *size) for size in sizes]
    return generator(ImageList(torch.zeros(1, 3, 64, 64), [(64, 64)]), features)


def test_the_first_cell_has_the_published_anchors():
    expected = torch.tensor(PUBLISHED) + torch.tensor([0, 0, 1, 1])  # the outer corner ends a pixel further
    (anchors,) = grid(Anchors([16], [(128, 256, 512)], (0.5, 1.0, 2.0)), (1, 1))
    torch.testing.assert_close(anchors, expected.float())


def test_cells_follow_each_other_along_the_row_then_down_then_by_level():
    generator = Anchors([8, 16], [(8,), (16,)], (1.0,))
    (anchors,) = grid(generator, (2, 3), (1, 1))
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert centres.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12], [8, 8]]


@pytest.mark.parametrize("ratio", [0.25, 0.5, 1.0, 2.0, 4.0])
def test_shape_is_ratio_and_size_within_the_rounding(ratio):
    (box,) = cell_anchors(16, [64], [ratio])
    width, height = (box[2:] - box[:2]).tolist()
    assert height / width == pytest.approx(ratio, rel=0.07)
    assert (height * width) ** 0.5 == pytest.approx(64, rel=0.07)
    assert (box[:2] + box[2:]).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("features", "expected"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_coordinates_are_exact_under_mixed_precision(features, expected):
    generator = Anchors([4], [(8,)], (1.0,))
    image = ImageList(torch.zeros(1, 3, 4, 1204), [(4, 1204)])
    (anchors,) = generator(image, [torch.zeros(1, 1, 1, 301, dtype=features)])
    assert anchors.dtype == expected
    assert anchors[-1].tolist() == [1198, -2, 1206, 6]


def test_sizes_and_octaves_come_from_the_config(small_detector):
    model = small_detector(
        "retinanet", {"MODEL.RETINANET.SCALES_PER_OCTAVE": 2, "MODEL.RETINANET.ASPECT_RATIOS": (1.0,)}
    )
    widths = [(cell[:, 2] - cell[:, 0]).tolist() for cell in model.anchor_generator.cell_anchors]
    assert widths[0] == pytest.approx([16, 16 * 2**0.5])
    assert widths[-1] == pytest.approx([128, 128 * 2**0.5])
    model = small_detector("rpn-c4", {"MODEL.RPN.ANCHOR_SIZES": (32, 64), "MODEL.RPN.ASPECT_RATIOS": (1.0,)})
    (cell,) = model.rpn.anchor_generator.cell_anchors
    assert (cell[:, 2] - cell[:, 0]).tolist() == [32, 64]


def test_torchvisions_anchors_are_those_of_torchvision():
    """On a padded batch whose coarse maps are rounded up, so that their cells are narrower than a stride."""
    images = ImageList(torch.zeros(1, 3, 96, 160), [(90, 150)])
    features = [torch.zeros(1, 1, *size) for size in ((12, 20), (6, 10), (3, 5), (2, 3), (1, 2))]
    sizes = [[size * 2 ** (i / 3) for i in range(3)] for size in (32, 64, 128, 256, 512)]
    ours = Anchors((8, 16, 32, 64, 128), sizes, (0.5, 1.0, 2.0), CONVENTIONS["torchvision"])
    assert torch.equal(ours(images, features)[0], _default_anchorgen()(images, features)[0])


def test_detectron2s_anchors_start_at_the_corner_and_are_not_rounded():
    ours = Anchors((16,), [(10, 20)], (0.5, 2.0), CONVENTIONS["detectron2"])
    (anchors,) = grid(ours, (1, 2))
    expected = []
    for column in (0, 1):
        for ratio in (0.5, 2.0):
            for size in (10, 20):
                width, height = size / ratio**0.5, size * ratio**0.5
                x = 16 * column
                expected.append([x - width / 2, -height / 2, x + width / 2, height / 2])
    torch.testing.assert_close(anchors, torch.tensor(expected))


@pytest.mark.parametrize("kind", ["rpn-fpn", "rpn-c4", "retinanet", "fcos"])
def test_the_config_chooses_the_convention(small_detector, kind):
    model = small_detector(kind, {"MODEL.ANCHOR_CONVENTION": "detectron2"})
    generator = model.rpn.anchor_generator if kind.startswith("rpn") else model.anchor_generator
    features = [torch.zeros(1, 1, 2, 2)] * len(generator.strides)
    (anchors,) = generator(ImageList(torch.zeros(1, 3, 64, 64), [(64, 64)]), features)
    assert torch.equal(anchors[0, :2], -anchors[0, 2:])  # the first is centred on the corner of the image


def test_an_unknown_convention_lists_the_known(small_detector):
    with pytest.raises(ConfigError, match="published, detectron2, torchvision, not 'caffe'") as caught:
        small_detector("retinanet", {"MODEL.ANCHOR_CONVENTION": "caffe"})
    assert "MODEL.ANCHOR_CONVENTION" in str(caught.value)
