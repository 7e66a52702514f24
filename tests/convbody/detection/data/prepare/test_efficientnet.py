from pathlib import Path

import pytest

from convbody.detection.data import DataError
from convbody.detection.data.prepare.efficientnet import timm_name

# The tensors of the published file in order: name and shape.
PUBLISHED = [
    (name, shape)
    for name, _, shape in (
        line.partition(" ")
        for line in (Path(__file__).parent / "efficientnet_lite0_tensors.txt").read_text().splitlines()
    )
]


def test_the_names_are_timms_in_order_and_so_are_the_shapes():
    timm = pytest.importorskip("timm")
    expected = timm.create_model("tf_efficientnet_lite0").state_dict()
    assert len(PUBLISHED) == len(expected) == 296
    renamed = [(timm_name(name), shape) for name, shape in PUBLISHED]
    assert renamed == [(name, "x".join(map(str, tensor.shape))) for name, tensor in expected.items()]


@pytest.mark.parametrize(
    "name", ["_head.weight", "_blocks.16._bn0.weight", "_blocks.0._expand_conv.weight", "x"]
)
def test_a_tensor_of_another_network_is_refused(name: str):
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        timm_name(name)
