"""ONNX files with deformable convolutions, run by onnxruntime."""

import pytest
import torch
from torch.export import Dim

from backbones import build_backbone
from backbones.layers.deform_conv import DFConv2d
from backbones.ops.onnx import translations
from registry import load_cfg

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def run_file(module, example, sizes, x, path):
    torch.onnx.export(
        module.eval(),
        (example,),
        path,
        dynamo=True,
        opset_version=19,
        dynamic_shapes=(sizes,),
        custom_translation_table=translations(),
        verbose=False,
    )
    session = onnxruntime.InferenceSession(path)
    outputs = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return onnx.load(path), [torch.from_numpy(output) for output in outputs]


@pytest.mark.parametrize(
    "options",
    [
        {"groups": 2, "deformable_groups": 4, "stride": 2, "bias": True},
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"with_modulated_dcn": False}, marks=pytest.mark.slow),
        pytest.param({"dilation": 2, "groups": 4, "kernel_size": 5}, marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_a_layer_for_any_size(options, tmp_path):
    layer = DFConv2d(4, 8, **options)
    layer.offset.weight.mul_(3)
    sizes = {0: Dim("batch"), 2: Dim("height", min=5), 3: Dim("width", min=5)}
    x = torch.randn(3, 4, 7, 10)
    file, (out,) = run_file(layer, torch.randn(2, 4, 9, 8), sizes, x, tmp_path / "layer.onnx")
    assert [opset.version for opset in file.opset_import if not opset.domain] == [19]
    assert [node.op_type for node in file.graph.node].count("DeformConv") == 1
    torch.testing.assert_close(out, layer(x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_a_whole_body(tmp_path):
    options = {
        "MODEL.BACKBONE.CONV_BODY": "R-50-FPN",
        "MODEL.RESNETS.STAGE_WITH_DCN": (False, True, True, True),
        "MODEL.RESNETS.WITH_MODULATED_DCN": True,
        "MODEL.RESNETS.WIDTH_PER_GROUP": 8,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
        "MODEL.RESNETS.BACKBONE_OUT_CHANNELS": 16,
    }
    body = build_backbone(load_cfg(None, [item for pair in options.items() for item in pair])).eval()
    x = torch.randn(1, 3, 64, 96)
    file, outputs = run_file(body, x, {}, x, tmp_path / "body.onnx")
    assert [node.op_type for node in file.graph.node].count("DeformConv") == 4 + 6 + 3
    torch.testing.assert_close(outputs, list(body(x)), rtol=1e-3, atol=1e-3)
