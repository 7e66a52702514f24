"""What a backbone does on a GPU: no reading back to the host, CUDA graphs, memory formats."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from exactness import name_of, relative_error
from rows import Rows
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode

from backbones import build_backbone
from backbones.memory_format import arranged
from registry import load_cfg

#: By name: a config file, and options.
BACKBONES: dict[str, tuple[str | None, tuple[Any, ...]]] = {
    "R-50-FPN": (None, ("MODEL.BACKBONE.CONV_BODY", "R-50-FPN")),
    "R-50-FPN, deformable": ("configs/coco/mask_rcnn_R_50_FPN_1x_dcn_v2.yaml", ()),
    "TResNet-M-FPN": ("configs/tresnet/faster_rcnn_TResNet_M_FPN.yaml", ()),
    "timm/tf_efficientnet_lite0-FPN": ("configs/quickstart/trees.yaml", ()),
}
REGION = "the backbone, forward and backward"
#: Operators that give the host a number, or a tensor whose size is one.
READS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "_unique2", "unique_dim")
#: Calls of CUDA that wait, and copies between host and device.
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
COPIES = ("Memcpy DtoH", "Memcpy HtoD")


def build(name: str, device: torch.device) -> nn.Module:
    """A backbone in training mode, with random weights."""
    file, options = BACKBONES[name]
    torch.manual_seed(0)
    return build_backbone(load_cfg(file, ["MODEL.WEIGHT", "", *options])).to(device).train()


def images(device: torch.device, *, rehearse: bool) -> Tensor:
    """A batch of noise."""
    side = 64 if rehearse else 320
    return torch.randn(2, 3, side, side, device=device)


def gradients(model: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """Those of all parameters that train, of a sum over all features."""
    total = torch.stack([feature.float().square().mean() for feature in model(x)]).sum()
    return torch.autograd.grad(total, [p for p in model.parameters() if p.requires_grad], allow_unused=True)


class Reads(TorchDispatchMode):
    """Notes the operators that read from the device to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        tensors = [value for value in args if isinstance(value, Tensor)]
        # Products that are kept on the CPU are compared there.
        compares = name == "equal" and any(tensor.is_cuda for tensor in tensors)
        if name in READS or compares or (name in ("_to_copy", "copy_") and _leaves(tensors, out)):
            self.found.append(str(func))
        return out


def _leaves(given: Sequence[Tensor], out: Any) -> bool:
    """Whether a copy goes from a GPU to the host."""
    return isinstance(out, Tensor) and not out.is_cuda and any(tensor.is_cuda for tensor in given)


def check_no_waiting(rows: Rows, device: torch.device, name: str, *, rehearse: bool) -> None:
    """Whether the host ever waits for the device within forward and backward pass, by three witnesses."""
    model, x = build(name, device), images(device, rehearse=rehearse)
    for _ in range(2 if device.type == "cuda" else 1):  # handles, workspaces, algorithms
        gradients(model, x)
    reads = Reads()
    with reads:
        gradients(model, x)
    rows.add(f"{name}: no operator reads to the host", not reads.found, detail=", ".join(reads.found))
    title = f"{name}: torch sees no synchronisation"
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            with rows.guarded(title):
                gradients(model, x)
                rows.add(title, True)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = profiled_waits(device, lambda: gradients(model, x))
    rows.add(f"{name}: the profile has no waiting and no copies", not waits, detail=", ".join(waits))


def profiled_waits(device: torch.device, call: Callable[[], object]) -> list[str]:
    """Names of calls that wait, and of copies, while ``call`` runs; with how many of each."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities) as profiler:
        with record_function(REGION):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize()
    events = profiler.events() or []
    (region,) = [e.time_range for e in events if e.name == REGION and e.device_type.name == "CPU"]
    inside = [e for e in events if region.start <= e.time_range.start <= region.end]
    waits = [e.name for e in inside if e.name in WAITS]
    waits += [e.name for e in events if e.name.startswith(COPIES)]
    return [f"{waits.count(name)} x {name}" for name in dict.fromkeys(waits)]


def captured(
    device: torch.device, call: Callable[[], tuple[Tensor, ...]]
) -> Callable[[], tuple[Tensor, ...]]:
    """``call`` as a CUDA graph, whose tensors stay the same; on a CPU ``call`` itself."""
    if device.type != "cuda":
        return call
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call()

    def replay() -> tuple[Tensor, ...]:
        graph.replay()
        return out

    return replay


def check_graph(rows: Rows, device: torch.device, name: str, *, rehearse: bool) -> None:
    """A captured forward pass, and a captured forward and backward pass, replayed with new images."""
    model = build(name, device)
    place = images(device, rehearse=rehearse)

    def features() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return tuple(model(place))

    def trained() -> tuple[Tensor, ...]:
        return tuple(grad for grad in gradients(model, place) if grad is not None)

    how = "as a CUDA graph" if device.type == "cuda" else "twice, for there are no graphs"
    # Gradients of a deformable convolution, and some of cuDNN's, add up in any order.
    for what, call, bound in (("features", features, 1e-5), ("gradients", trained, 1e-3)):
        title = f"{name}: {what}, {how}"
        with rows.guarded(title), evaluating(model, what == "features"):
            again = captured(device, call)
            errors = []
            for _ in range(2):
                place.copy_(images(device, rehearse=rehearse))
                replayed = [tensor.clone() for tensor in again()]
                errors += [relative_error(a, b) for a, b in zip(replayed, call(), strict=True)]
            rows.add(title, max(errors) <= bound, max(errors), "relative error", f"at most {bound:g}")


@contextmanager
def evaluating(model: nn.Module, on: bool) -> Iterator[None]:
    """In evaluation mode, if ``on``. In training batch norms move, so that replays differ from calls."""
    model.train(not on)
    if not on:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = 0.0
    yield
    model.train()


def check_memory_format(rows: Rows, device: torch.device, *, rehearse: bool) -> None:
    """MODEL.MEMORY_FORMAT auto beside contiguous: the same values, in the format that it promises."""
    name = "R-50-FPN"
    model, x = build(name, device).eval(), images(device, rehearse=rehearse)
    for dtype, bound in ((torch.float32, 1e-4), (torch.bfloat16, 5e-2), (torch.float16, 1e-2)):
        if rehearse and dtype is torch.float16:
            continue  # seconds on a CPU
        title = f"{name}, MEMORY_FORMAT auto, {name_of(dtype)}"
        found: dict[str, list[Tensor]] = {}
        with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
            promised = arranged(x, "auto", bool(model.quick)).stride(1) == 1
            for word in ("auto", "contiguous"):
                model.memory_format = word  # type: ignore[assignment]
                found[word] = model(x)
        # A feature of a single pixel is in both formats.
        last = [feature.stride(1) == 1 for feature in found["auto"] if feature[0, 0].numel() > 1]
        error = max(relative_error(a, b) for a, b in zip(found["auto"], found["contiguous"], strict=True))
        kept = "channels_last" if promised else "contiguous"
        right = error <= bound and all(is_last == promised for is_last in last)
        rows.add(
            title, right, error, "relative error", f"{kept}: {last.count(promised)} of {len(last)} features"
        )
