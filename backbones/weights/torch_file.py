"""Reading files that ``torch.save`` wrote, without running what they say."""

from __future__ import annotations

import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from backbones.weights.pickle_file import ADMITTED, PickledArray
from backbones.weights.pickle_scan import check_pickle

_ARCHIVE = b"PK\x03\x04"
#: How the first pickle of the form that torch wrote until 1.5 ends; four more follow.
_OLD_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_OLD_PICKLES = 5


class _Settings:
    """Stands for an ``argparse.Namespace``, which many programs save beside their weights; keeps nothing."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


#: What torch's own list of harmless names lacks; the objects that stand for them do nothing.
_HARMLESS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    *((function, f"{module}.{name}") for (module, name), function in ADMITTED.items() if "numpy" in module),
    (PickledArray, f"{PickledArray.__module__}.{PickledArray.__qualname__}"),
    (_Settings, "argparse.Namespace"),
]


def is_torch_file(file: Path) -> bool:
    """Whether torch wrote the file, in either of its forms."""
    head = _head(file)
    return head.startswith(_ARCHIVE) or _OLD_MAGIC in head


def read_torch(file: Path) -> Any:
    """What torch saved, on the CPU; arrays of numpy's among it are :class:`PickledArray`.

    Raises:
        pickle.UnpicklingError: it cannot be read, would exhaust the machine, or asks for anything but tensors
            and plain containers; the message says why.
    """
    with safe_globals(_HARMLESS), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old protocols, which are read all the same
        try:
            _check(file)
            return torch.load(file, map_location="cpu", weights_only=True)
        except MemoryError as error:
            raise pickle.UnpicklingError("it asks for more memory than there is") from error
        except Exception as error:  # a broken file can make the reader fail in any way
            raise pickle.UnpicklingError(_reason(_asked_for(file), error)) from error


def _head(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(64)


def _check(file: Path) -> None:
    if not _head(file).startswith(_ARCHIVE):
        with file.open("rb") as stream:
            for _ in range(_OLD_PICKLES):
                check_pickle(stream)
        return
    with zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
        # torch stores its parts as they are; compressed, a small file could fill the memory.
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            raise pickle.UnpicklingError("it is a compressed archive, which torch never writes")
        pickles = [part for part in parts if part.filename.endswith("data.pkl")]
        if len(pickles) != 1:
            raise pickle.UnpicklingError(f"it is an archive with {len(pickles)} files data.pkl, not of torch")
        check_pickle(io.BytesIO(archive.read(pickles[0])))


def _asked_for(file: Path) -> list[str]:
    """The classes and functions, beyond those of tensors and containers, that an archive of torch names."""
    try:
        return sorted(get_unsafe_globals_in_checkpoint(file))
    except Exception:  # an old form or a broken file, and the first error tells how
        return []


def _reason(asked: list[str], error: Exception) -> str:
    if any(name.startswith("torch.nn.modules.") for name in asked):
        return (
            "it holds a whole model, which only running its code could read; where that code is, load it and "
            "save its tensors alone: torch.save(model.state_dict(), path)"
        )
    if asked:
        return (
            f"it asks for {', '.join(asked[:3])}, and may hold tensors and plain containers only; save its "
            "tensors alone where it was written"
        )
    # torch wraps what it found in advice to read the file without its guard.
    found = re.search(r"WeightsUnpickler error: (.*)", str(error))
    return found[1] if found else str(error).partition("\n")[0] or type(error).__name__
