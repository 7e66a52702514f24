"""Everything that ships with the project, by name. Nothing is imported until a name is used."""

from __future__ import annotations

from pathlib import Path

from registry.registries import (
    BACKBONES,
    BODIES,
    FBNET_ARCHS,
    FBNET_PRIMITIVES,
    NECKS,
    NORMS,
    STAGE_SPECS,
    STEM_MODULES,
    TRANSFORMATION_MODULES,
)

#: Modules that declare config sections; they import no torch.
CONFIG_MODULES = (
    "registry.plugins_config",
    "backbones.config",
    "backbones.resnet.config",
    "backbones.tresnet.config",
    "backbones.fbnet.config",
    "convbody.training.config",
    "convbody.classification.config",
    "convbody.search.config",
    "convbody.detection.config",
    "convbody.detection.data.config",
)

#: Modules that hold further registries, read by ``python -m registry``; they import no torch.
REGISTRY_MODULES = ("convbody.detection.heads.registries",)

_RESNETS = ("R-18", "R-34", "R-50", "R-101", "R-152")
_NORM_WORDS = ("FixedBatchNorm", "GN", "BatchNorm", "SyncBN")
_NECKS = ("C4", "C5", "FPN", "FPN-RETINANET")

for _name in _RESNETS:
    BODIES.lazy(_name, "backbones.resnet.body:build_resnet_body")
    STAGE_SPECS.lazy(_name, "backbones.resnet.stages")
    for _neck in _NECKS:
        STAGE_SPECS.lazy(f"{_name}-{_neck}", "backbones.resnet.stages")
for _name in ("TResNet-M", "TResNet-L", "TResNet-XL", "TResNet-L-V2"):
    BODIES.lazy(_name, "backbones.tresnet.body:build_tresnet_body")
for _name in ("R-20-CIFAR", "R-32-CIFAR", "R-44-CIFAR", "R-56-CIFAR", "R-110-CIFAR"):
    BODIES.lazy(_name, "backbones.resnet.cifar:build_cifar_body")
BODIES.lazy("timm/*", "backbones.timm:build_timm_body", names="backbones.timm_names:timm_bodies")

BACKBONES.lazy("FBNet", "backbones.fbnet.body:build_fbnet")
BODIES.lazy("FBNet-*", "backbones.fbnet.body:build_fbnet_body")  # architectures of your own
for _path in sorted((Path(__file__).parents[1] / "backbones" / "fbnet" / "archs").glob("*.yaml")):
    BODIES.lazy(f"FBNet-{_path.stem}", "backbones.fbnet.body:build_fbnet_body")
    FBNET_ARCHS.register(_path.stem, _path)
for _name in (
    *("skip", "shuffle", "basic_block", "shift_5x5", "ir_k1", "ir_k3_sep", "ir_k7_sep"),
    *(f"ir_k{_kernel}{_rest}" for _kernel in (3, 5, 7) for _rest in ("", "_e1", "_e3", "_e6")),
    *(f"ir_k{_kernel}_{_rest}" for _kernel in (3, 5) for _rest in ("s2", "s4")),
    *(f"ir_k{_kernel}_{_rest}_se" for _kernel in (3, 5) for _rest in ("e1", "e3", "e6", "s2", "s4")),
    *(f"{_name}_e{_expansion}" for _name in ("ir_k33", "ir_k7_sep") for _expansion in (1, 3, 6)),
):
    FBNET_PRIMITIVES.lazy(_name, "backbones.fbnet.primitives")

NECKS.lazy("C4", "backbones.necks.single:build_c4")
NECKS.lazy("C5", "backbones.necks.single:build_c5")
NECKS.lazy("FPN", "backbones.necks.fpn:build_fpn")
NECKS.lazy("FPN-RETINANET", "backbones.necks.fpn:build_retinanet_fpn")
NECKS.lazy("PAFPN", "backbones.necks.pafpn:build_pafpn")

for _word in _NORM_WORDS:
    STEM_MODULES.lazy(f"StemWith{_word}", f"backbones.resnet.stems:StemWith{_word}")
    for _block in ("Bottleneck", "BasicBlock"):
        TRANSFORMATION_MODULES.lazy(
            f"{_block}With{_word}", f"backbones.resnet.transformations:{_block}With{_word}"
        )

NORMS.lazy("FrozenBN", "backbones.layers.norm:FrozenBatchNorm2d")
NORMS.lazy("BN", "backbones.layers.norm:batch_norm")
NORMS.lazy("GN", "backbones.layers.norm:group_norm")
NORMS.lazy("SyncBN", "backbones.layers.norm:SyncBatchNorm")
NORMS.lazy("ABN", "backbones.layers.activated_norm:ActivatedBatchNorm2d")
NORMS.lazy("SyncABN", "backbones.layers.activated_norm:SyncActivatedBatchNorm2d")
