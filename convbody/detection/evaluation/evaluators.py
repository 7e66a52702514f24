"""TEST.EVALUATOR: who compares detections with objects, pycocotools (the reference) or hotcoco (fast).

Both give the same numbers to the last digit. hotcoco does not take scores that are no numbers, and its
threads do not live on in a forked process: pycocotools does it then, as it does where hotcoco fails, and the
log says so.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

from convbody.detection.evaluation.matching import Matches
from convbody.detection.evaluation.truth import Record
from registry import Config, ConfigError
from registry.errors import in_one_line

log = logging.getLogger(__name__)

REFERENCE, FAST, AUTO = "pycocotools", "hotcoco", "auto"
_KEY = "TEST.EVALUATOR"
#: Versions before it differ from pycocotools in the third digit.
_OLDEST = (1, 3)


@dataclass(frozen=True)
class Compared:
    """What an evaluator found out."""

    eval: dict[str, Any]
    """As ``COCOeval.eval``: among others "precision" (T, R, K, A, M) and "recall" (T, K, A, M), float64."""
    matches: Matches
    """Over objects of every size."""
    evaluator: str
    """Who did it."""


def choose_evaluator(cfg: Config) -> str:
    """The evaluator that TEST.EVALUATOR asks for; "auto" is hotcoco where it is installed.

    Raises:
        ConfigError: no such evaluator, or it is not installed.
    """
    choice = cfg.TEST.EVALUATOR
    if choice not in (AUTO, REFERENCE, FAST):
        raise ConfigError(f"choose one of {AUTO}, {REFERENCE}, {FAST}", _KEY, cfg)
    if choice == REFERENCE:
        return choice
    version = _installed_version()
    if version >= _OLDEST:
        return FAST
    if choice == FAST:
        found = f"hotcoco {'.'.join(map(str, version))} is too old" if version else "hotcoco is not installed"
        raise ConfigError(f"{found}; pip install 'hotcoco>={'.'.join(map(str, _OLDEST))}'", _KEY, cfg)
    return REFERENCE


def compare(evaluator: str, truth: dict[str, Any], found: Sequence[Record], params: Params) -> Compared:
    """Match detections with the objects of ``truth``, a COCO data set with ids from 1, as ``params`` say.

    ``truth``, and for keypoints and masks ``found`` too, is written into. Whatever hotcoco fails at,
    pycocotools does instead.
    """
    if evaluator == FAST:
        reason = _not_for_hotcoco(found)
        if not reason:
            try:
                return _with_hotcoco(truth, found, params)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # a panic of Rust's is no Exception
                reason = in_one_line(error)
        log.warning("scored with %s, because %s does not take this: %s", REFERENCE, FAST, reason)
    with contextlib.redirect_stdout(io.StringIO()):
        return _with_pycocotools(truth, found, params)


def _with_pycocotools(truth: dict[str, Any], found: Sequence[Record], params: Params) -> Compared:
    objects, detections = COCO(), COCO()
    objects.dataset = truth
    objects.createIndex()
    if found:
        detections = objects.loadRes(list(found))
    else:  # which loadRes does not take
        detections.dataset = {**truth, "annotations": []}
        detections.createIndex()
    scorer = COCOeval(objects, detections, params.iouType)
    scorer.params = params
    scorer.evaluate()
    scorer.accumulate()
    entries = (entry for entry in scorer.evalImgs if entry and entry["aRng"] == params.areaRng[0])
    return Compared(scorer.eval, Matches.gather(entries), REFERENCE)


def _with_hotcoco(truth: dict[str, Any], found: Sequence[Record], params: Params) -> Compared:
    hotcoco = import_module("hotcoco")
    objects = hotcoco.COCO(truth)
    detections = objects.load_res(list(found))

    def scorer() -> Any:
        made = hotcoco.COCOeval(objects, detections, params.iouType)
        made.params.imgIds, made.params.catIds = list(params.imgIds), list(params.catIds)
        made.params.maxDets, made.params.useCats = list(params.maxDets), bool(params.useCats)
        if params.iouType == "keypoints":
            made.params.kpt_oks_sigmas = [float(sigma) for sigma in params.kpt_oks_sigmas]
        return made

    whole = scorer()
    whole.evaluate()
    whole.accumulate()
    # Its matches are Python objects, made when asked for: matching again for those needed is quicker.
    at_50 = scorer()
    at_50.params.iouThrs = [0.5]
    at_50.params.areaRng, at_50.params.areaRngLbl = [list(params.areaRng[0])], [params.areaRngLbl[0]]
    at_50.evaluate()
    return Compared(whole.eval, Matches.gather(filter(None, at_50.evalImgs)), FAST)


def _not_for_hotcoco(found: Sequence[Record]) -> str:
    """What keeps hotcoco from these detections in this process; "" for nothing."""
    if _pid_of_first_use() != os.getpid():
        return "a process forked after its threads were started"
    if any(math.isnan(record["score"]) for record in found):
        return "scores that are no numbers"
    return ""


@cache
def _pid_of_first_use() -> int:
    return os.getpid()


def _installed_version() -> tuple[int, ...]:
    """Major and minor version of hotcoco, empty without it."""
    try:
        return tuple(int(part) for part in metadata.version(FAST).split(".")[:2])
    except metadata.PackageNotFoundError:
        return ()
