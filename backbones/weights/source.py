"""Where MODEL.WEIGHT points: a file on this machine, downloaded first when it is not."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import re
import string
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, quote, urlsplit
from urllib.request import urlopen

from backbones.weights.catalog import URLS
from registry import Config, ConfigError
from registry.errors import in_one_line, nearest_phrase
from registry.paths import expand

KEY = "MODEL.WEIGHT"
SCHEMES = ("catalog", "torchvision", "timm", "detectron2", "https", "http")
_LONGEST_NAME = 200  # of a file in the cache, characters
_SUM = "sha256="
_DETECTRON2 = "https://dl.fbaipublicfiles.com/detectron2/"

logger = logging.getLogger(__name__)


def address(weight: str | Path) -> str:
    """``weight`` as text. A Path has lost a slash of an address that it was made of; it gets it back."""
    return re.sub(rf"^({'|'.join(SCHEMES)}):/(?!/)", r"\1://", str(weight))


def shown(weight: str | Path) -> str:
    """``weight`` as messages name it: in one line, whatever letters it has."""
    text = address(weight)
    return text if text.isprintable() else repr(text)


@dataclass(frozen=True)
class Place:
    """What MODEL.WEIGHT says, taken apart.

    Attributes:
        where: a path, an address or a name.
        dictionary: which of the file's dictionaries is meant; "" leaves it to the reader.
        checksum: the sha256 of an address's file, or the start of it; "" where it is not known.
    """

    where: str
    dictionary: str = ""
    checksum: str = ""


def place(weight: str, cfg: Config | None = None) -> Place:
    """``weight`` taken apart: ``file.pth#ema``, ``https://host/file.pth#sha256=0123abcd#ema``.

    A file whose name has a "#" is meant where it exists.

    Raises:
        ConfigError: more than one dictionary, or a dictionary without a name.
    """
    remote = "://" in weight
    if "#" not in weight or (not remote and _is_file(Path(expand(weight, KEY)))):
        return Place(weight)
    where, *fragments = weight.split("#") if remote else weight.rsplit("#", 1)
    sums = [text for text in fragments if remote and text.startswith(_SUM)]
    names = [text for text in fragments if text not in sums]
    if len(sums) > 1 or len(names) > 1 or not all(fragments):
        raise ConfigError(
            f"after # stands the name of one dictionary in the file, not so in {shown(weight)}", KEY, cfg
        )
    return Place(where, "".join(names), "".join(sums).removeprefix(_SUM).lower())


def local_file(weight: str, cfg: Config | None = None) -> Path:
    """The file that ``weight`` means; an address or a name is fetched into the cache unless it is there.

    ``catalog://ImageNetPretrained/MSRA/R-50`` (Detectron's published names),
    ``torchvision://resnet50?weights=IMAGENET1K_V2`` (the default weights without ``?weights=``),
    ``timm://resnet50.a1_in1k``, ``detectron2://ImageNetPretrained/MSRA/R-50.pkl``, or an address, with
    ``#sha256=...`` where its checksum, or the start of it, is known. Of a file whose checksum is not known
    the one that it came with is kept beside it. The cache is ``$CONVBODY_WEIGHTS``, or
    ``~/.cache/convbody/weights``. ``#NAME`` of a dictionary in the file is left out of account.

    Raises:
        ConfigError: no such file, an unknown scheme or name, no address, a file that is not what its checksum
            says or has changed since it was fetched, or no way to fetch it; then the message names the file
            to put in its place.
    """
    meant = place(weight, cfg)
    if "://" not in meant.where:
        file = Path(expand(meant.where, KEY))
        if not _is_file(file):
            raise ConfigError(f"no such weight file: {shown(meant.where)}", KEY, cfg)
        return file
    try:
        url = _address(meant.where, cfg)
        file = _cache_file(url.partition("#")[0])
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{shown(meant.where)} is no address of a file ({error})", KEY, cfg) from error
    checksum = meant.checksum or url.partition(f"#{_SUM}")[2]
    if not file.is_file():
        try:
            _download(url, file, checksum)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ConfigError(
                f"{shown(url)} cannot be fetched ({in_one_line(error)}); fetch it elsewhere and save it as "
                f"{file.name} in {file.parent}",
                KEY,
                cfg,
            ) from error
    else:
        _check(file, checksum, cfg)
    return file


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, a folder that may not be read
        return False


def _cache_file(url: str) -> Path:
    """Where the file of an address is kept.

    Raises:
        ValueError: it is no address of a file.
    """
    parts = urlsplit(url)
    name = PurePosixPath(parts.path).name
    if not parts.hostname or parts.port == 0 or not name or len(name) > _LONGEST_NAME:
        raise ValueError("https://HOST/FILE is one")
    # Many published files are called model_final.pkl; the address tells them apart.
    return _cache() / f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{name}"


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
    """The address of an address or a name, with its checksum where that is known."""
    scheme, _, name = weight.partition("://")
    if scheme not in SCHEMES:
        raise ConfigError(
            f"{shown(weight)} is neither a path nor one of {'://, '.join(SCHEMES)}://", KEY, cfg
        )
    if scheme == "catalog":
        if name not in URLS:
            raise ConfigError(f"the catalogue has no {shown(name)}{nearest_phrase(name, URLS)}", KEY, cfg)
        return URLS[name]
    if scheme == "torchvision":
        return _torchvision_address(name, cfg)
    if scheme == "detectron2":
        return _in_ascii(_DETECTRON2 + name)
    return _timm_address(name, cfg) if scheme == "timm" else _in_ascii(weight)


def _torchvision_address(name: str, cfg: Config | None) -> str:
    from torchvision.models import get_model_weights

    model, _, query = name.partition("?")
    wanted = parse_qs(query).get("weights", ["DEFAULT"])[0]
    try:
        url = str(get_model_weights(model)[wanted].url)
    except (ValueError, KeyError) as error:
        raise ConfigError(
            f"torchvision has no weights {shown(wanted)} of a model {shown(model)}", KEY, cfg
        ) from error
    # The names of torchvision's files end in the first digits of their checksum.
    digits = re.search(r"-([0-9a-f]{8})\.pth$", url)
    return f"{url}#{_SUM}{digits[1]}" if digits else url


def _in_ascii(url: str) -> str:
    """An address with its other letters as servers take them."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    user, at, host = host.rpartition("@")
    host = host if host.isascii() else host.encode("idna").decode()
    return f"{scheme}://{_quoted(user)}{at}{host}{slash}{_quoted(path)}"


def _quoted(text: str) -> str:
    return quote(text, safe=string.punctuation)


def _timm_address(name: str, cfg: Config | None) -> str:
    try:
        from timm.models import get_pretrained_cfg
    except ImportError as error:
        raise ConfigError("timm:// needs timm: pip install 'convbody[timm]'", KEY, cfg) from error
    try:
        source = get_pretrained_cfg(name)
    except RuntimeError as error:  # a tag that the model does not have
        raise ConfigError(f"timm has no weights {shown(name)}", KEY, cfg) from error
    if source is None or not (source.hf_hub_id or source.url):
        raise ConfigError(f"timm has no weights {shown(name)}", KEY, cfg)
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
