"""What the operators with the multiplications read, observed below autograd and autocast."""

from torch.utils._python_dispatch import TorchDispatchMode

NAMES = {"aten::convolution", "aten::convolution_backward", "aten::addmm", "aten::mm", "aten::bmm"}


class Products(TorchDispatchMode):
    """Notes the types that each of them has read."""

    def __init__(self):
        super().__init__()
        self.read = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        if name in NAMES or "deform_conv2d" in name:
            self.read.setdefault(name, set()).add(args[0].dtype)
        return func(*args, **(kwargs or {}))
