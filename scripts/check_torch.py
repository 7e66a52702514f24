"""Stop, with one sentence, when the installed torch and torchvision do not fit each other.

torchvision's operators are compiled against one torch. Beside another (a CPU-only torch with a CUDA
torchvision, say) `import torchvision` may still work, and an operator fails later, far from the cause.
So call one now.
"""

import sys
from importlib.metadata import PackageNotFoundError, version


def main() -> int:
    try:
        import torch
        import torchvision

        kept = torchvision.ops.nms(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.ones(1), 0.5)
        assert kept.tolist() == [0]
    except Exception as error:  # whatever goes wrong in here has one cause and one remedy
        reason = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
        print(
            f"error: torch {found('torch')} and torchvision {found('torchvision')} do not work together "
            f"({reason}). They are built as a pair: install both anew from one source, both for CUDA or both "
            f"for the CPU, with `{sys.executable} -m pip install --force-reinstall torch torchvision`, "
            "or remove the environment's folder and run make again.",
            file=sys.stderr,
        )
        return 2
    return 0


def found(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
