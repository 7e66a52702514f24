"""bfloat16 in every detector: heads multiply in it, and coordinates, scores and losses stay in float32."""

import pytest
import torch
from products import Products

DCN = {"MODEL.BACKBONE.CONV_BODY": "R-50-FPN", "MODEL.RESNETS.STAGE_WITH_DCN": (False, True, True, True)}
ABN = {"MODEL.BACKBONE.CONV_BODY": "TResNet-M-FPN", "MODEL.TRESNETS.NORM": "ABN"}
CASES = [
    *(pytest.param(kind, {}, id=kind) for kind in ("mask-c4", "everything-fpn", "retinanet", "fcos")),
    pytest.param("mask-fpn", DCN, id="deformable", marks=pytest.mark.slow),
    pytest.param("faster-fpn", ABN, id="activated norm", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("kind", "changes"), CASES)
def test_a_training_step_is_that_of_float32_but_for_rounding(kind, changes, small_detector, batch):
    model = small_detector(kind, changes)
    losses = {}
    for low in (False, True):
        model.zero_grad()
        torch.manual_seed(0)  # of the samples of proposals
        with Products() as products:
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                losses[low] = model(*batch)
            sum(losses[low].values()).backward()
    assert {"aten::convolution", "aten::convolution_backward"} <= products.read.keys()
    assert (
        ("aten::mm" in products.read) == ("aten::addmm" in products.read) == ("fpn" in kind or "c4" in kind)
    )
    assert products.read == {operator: {torch.bfloat16} for operator in products.read}
    for name, exact in losses[False].items():
        assert losses[True][name].dtype is torch.float32
        assert losses[True][name].item() == pytest.approx(exact.item(), rel=0.01, abs=1e-4)
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(g.dtype is torch.float32 and g.isfinite().all() for g in gradients)


@pytest.mark.parametrize(("kind", "changes"), CASES)
def test_coordinates_and_scores_are_not_those_of_bfloat16(kind, changes, small_detector, batch):
    model = small_detector(kind, {"MODEL.RETINANET.INFERENCE_TH": 0.0, **changes}).eval()
    with Products() as products, torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        outputs = model(batch[0])
    assert products.read == {operator: {torch.bfloat16} for operator in products.read}
    for name, value in outputs[0].items():
        assert len(value) and value.isfinite().all()
        assert value.dtype is (torch.int64 if name == "labels" else torch.float32)
    for name in {"boxes", "scores", "masks"} & outputs[0].keys():
        assert not torch.equal(outputs[0][name], outputs[0][name].bfloat16().float())
