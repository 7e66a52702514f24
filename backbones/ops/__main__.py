"""``python -m backbones.ops``: which code computes the operators on each device, and why."""

from backbones.ops.library import status

for device, sentence in status().items():
    print(f"{device}: {sentence}")
