import pytest
import torch
from torchvision.models.detection.image_list import ImageList

from convbody.detection.heads.anchors import Anchors, cell_anchors

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
