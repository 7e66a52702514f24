"""Where MODEL.WEIGHT points: a file on this machine, downloaded first when it is not."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import re
import tempfile
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, urlsplit
from urllib.request import urlopen

from backbones.weights.catalog import URLS
from registry import Config, ConfigError
from registry.errors import nearest_phrase

KEY = "MODEL.WEIGHT"
SCHEMES = ("catalog", "torchvision", "timm", "detectron2", "https", "http")
_DETECTRON2 = "https://dl.fbaipublicfiles.com/detectron2/"

logger = logging.getLogger(__name__)


def address(weight: str | Path) -> str:
    """``weight`` as text. A Path has lost a slash of an address that it was made of; it gets it back."""
    return re.sub(rf"^({'|'.join(SCHEMES)}):/(?!/)", r"\1://", str(weight))


def local_file(weight: str, cfg: Config | None = None) -> Path:
    """The file that ``weight`` means; an address or a name is fetched into the cache unless it is there.

    ``catalog://ImageNetPretrained/MSRA/R-50`` (Detectron's published names),
    ``torchvision://resnet50?weights=IMAGENET1K_V2`` (the default weights without ``?weights=``),
    ``timm://resnet50.a1_in1k``, ``detectron2://ImageNetPretrained/MSRA/R-50.pkl``, or an address, with
    ``#sha256=...`` where its checksum, or the start of it, is known. Of a file whose checksum is not known
    the one that it came with is kept beside it. The cache is ``$CONVBODY_WEIGHTS``, or
    ``~/.cache/convbody/weights``.

    Raises:
        ConfigError: an unknown scheme or name, a file that is not what its checksum says or has changed since
            it was fetched, or no way to fetch it; then the message names the file to put in its place.
    """
    if "://" not in weight:
        return Path(weight).expanduser()
    url = _address(weight, cfg)
    parts = urlsplit(url)
    name = PurePosixPath(parts.path).name
    # Many published files are called model_final.pkl; the address tells them apart.
    file = _cache() / f"{hashlib.sha256(url.partition('#')[0].encode()).hexdigest()[:8]}-{name}"
    checksum = parts.fragment.removeprefix("sha256=")
    if not file.is_file():
        try:
            _download(url, file, checksum)
        except (OSError, http.client.HTTPException) as error:
            raise ConfigError(
                f"{url} cannot be fetched ({error}); fetch it elsewhere and save it as {file.name} in "
                f"{file.parent}",
                KEY,
                cfg,
            ) from error
    else:
        _check(file, checksum, cfg)
    return file


def _check(file: Path, checksum: str, cfg: Config | None) -> None:
    """Holds a file in the cache to its checksum; one put there by hand may have none."""
    record = _record(file)
    if checksum and not _sha256(file).startswith(checksum):
        raise ConfigError(f"{file} has another sha256 than {checksum}; delete it to fetch it anew", KEY, cfg)
    if not checksum and record.is_file() and record.read_text().strip() != _sha256(file):
        raise ConfigError(
            f"{file} has changed since it was fetched: {record.name} has another sha256; delete both to "
            "fetch it anew",
            KEY,
            cfg,
        )


def _record(file: Path) -> Path:
    """Where the checksum is kept that ``file`` came with."""
    return file.with_name(f"{file.name}.sha256")


def _cache() -> Path:
    return Path(os.environ.get("CONVBODY_WEIGHTS") or "~/.cache/convbody/weights").expanduser()


def _address(weight: str, cfg: Config | None) -> str:
    scheme, _, name = weight.partition("://")
    if scheme not in SCHEMES:
        raise ConfigError(f"{weight} is neither a path nor one of {'://, '.join(SCHEMES)}://", KEY, cfg)
    if scheme == "catalog":
        if name not in URLS:
            raise ConfigError(f"the catalogue has no {name}{nearest_phrase(name, URLS)}", KEY, cfg)
        return URLS[name]
    if scheme == "torchvision":
        return _torchvision_address(name, cfg)
    if scheme == "detectron2":
        return _DETECTRON2 + name
    return _timm_address(name, cfg) if scheme == "timm" else weight


def _torchvision_address(name: str, cfg: Config | None) -> str:
    from torchvision.models import get_model_weights

    model, _, query = name.partition("?")
    wanted = parse_qs(query).get("weights", ["DEFAULT"])[0]
    try:
        url = str(get_model_weights(model)[wanted].url)
    except (ValueError, KeyError) as error:
        raise ConfigError(f"torchvision has no weights {wanted} of a model {model}", KEY, cfg) from error
    # The names of torchvision's files end in the first digits of their checksum.
    digits = re.search(r"-([0-9a-f]{8})\.pth$", url)
    return f"{url}#sha256={digits[1]}" if digits else url


def _timm_address(name: str, cfg: Config | None) -> str:
    try:
        from timm.models import get_pretrained_cfg
    except ImportError as error:
        raise ConfigError("timm:// needs timm: pip install 'convbody[timm]'", KEY, cfg) from error
    try:
        source = get_pretrained_cfg(name)
    except RuntimeError as error:  # a tag that the model does not have
        raise ConfigError(f"timm has no weights {name}", KEY, cfg) from error
    if source is None or not (source.hf_hub_id or source.url):
        raise ConfigError(f"timm has no weights {name}", KEY, cfg)
    if source.hf_hub_id:
        file = source.hf_hub_filename or "model.safetensors"
        return f"https://huggingface.co/{source.hf_hub_id}/resolve/main/{file}"
    return str(source.url)


def _download(url: str, file: Path, checksum: str) -> None:
    """``url`` into ``file``, which exists whole or not at all."""
    logger.info("fetching %s", url)
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        part = Path(folder, file.name)
        with urlopen(url, timeout=30) as response, part.open("wb") as stream:
            while block := response.read(1 << 20):
                stream.write(block)
            length = response.headers["Content-Length"]
        if length is not None and part.stat().st_size != int(length):
            raise OSError(f"{part.stat().st_size} of {length} bytes came")
        found = _sha256(part)
        if not found.startswith(checksum):
            raise OSError(f"its sha256 is {found}")
        if not checksum:
            _record(file).write_text(f"{found}\n")
        part.replace(file)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
