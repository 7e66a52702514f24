import torch
from torchvision.ops import MultiScaleRoIAlign, roi_align

from backbones import build_backbone
from convbody.detection.heads.pooler import Pooler, build_pooler


def test_cut_outs_are_at_the_true_scale_however_small_the_image():
    # 40 pixels padded to 64: guessing the scale from the image would be off by more than a half.
    features = [torch.randn(1, 2, 16, 16), torch.randn(1, 2, 8, 8)]
    boxes = torch.tensor([[4.0, 4.0, 20.0, 28.0]])
    pooled = Pooler([0], [4], 7, 2)(features, [boxes], [(40, 40)])
    torch.testing.assert_close(
        pooled, roi_align(features[0], [boxes], 7, spatial_scale=0.25, sampling_ratio=2)
    )


def test_large_boxes_are_read_from_coarse_maps():
    features = [torch.full((1, 1, 256 // s, 256 // s), float(s)) for s in (4, 8, 16, 32)]
    sides = torch.tensor([56.0, 112.0, 224.0])
    boxes = torch.stack([sides * 0, sides * 0, sides, sides], dim=1)
    pooled = Pooler([0, 1, 2, 3], [4, 8, 16, 32], 3, 0)(features, [boxes], [(256, 256)])
    assert pooled[:, 0, 1, 1].tolist() == [4, 8, 16]


def test_maps_are_named_by_their_scale(small_cfg):
    def levels(changes):
        cfg = small_cfg("faster-fpn", changes)
        pooler = build_pooler(cfg, "MODEL.ROI_BOX_HEAD", build_backbone(cfg))
        return pooler.featmap_names, pooler.scales, pooler.output_size, pooler.sampling_ratio

    assert levels({})[:2] == (["0", "1", "2", "3"], [1 / 4, 1 / 8, 1 / 16, 1 / 32])
    changes = {
        "MODEL.ROI_BOX_HEAD.POOLER_SCALES": (0.125, 0.0625),
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 5,
        "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 2,
    }
    assert levels(changes) == (["1", "2"], [1 / 8, 1 / 16], (5, 5), 2)


def test_every_box_is_cut_out_as_torchvisions_pooler_does():
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(2, 5, 256 // s, 320 // s, generator=generator) for s in (4, 8, 16, 32)]
    boxes = [torch.rand(count, 4, generator=generator) * 150 for count in (20, 0)]
    for each in boxes:
        each[:, 2:] += each[:, :2]
    sizes = [(256, 320)] * 2
    theirs = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    wanted = theirs({str(level): feature for level, feature in enumerate(features)}, boxes, sizes)
    pooled = Pooler([0, 1, 2, 3], [4, 8, 16, 32], 7, 2)(features, boxes, sizes)
    torch.testing.assert_close(pooled, wanted, atol=1e-5, rtol=1e-5)
