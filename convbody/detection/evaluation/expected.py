"""TEST.EXPECTED_RESULTS: the results that a run must reproduce, read before it and compared after it."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convbody.detection.evaluation.result import EvaluationResult
from convbody.detection.evaluation.run import tasks_of
from convbody.detection.evaluation.scoring import metric_names
from convbody.training import distributed
from registry import Config, ConfigError, ConvbodyError
from registry.errors import nearest_phrase

logger = logging.getLogger(__name__)

_KEY = "TEST.EXPECTED_RESULTS"
_TOLERANCE_KEY = "TEST.EXPECTED_RESULTS_SIGMA_TOL"

#: Published words for tasks -> the project's, which serve as well.
_TASKS = {"box": "bbox", "box_proposal": "proposals", "keypoint": "keypoints"}


class UnexpectedResultError(ConvbodyError):
    """An evaluation ended outside the range that TEST.EXPECTED_RESULTS allows."""


@dataclass(frozen=True)
class Expectation:
    """One metric of one data set, and the range it has to lie in, both ends included."""

    dataset: str
    metric: str
    """As in ``EvaluationResult.metrics``: "bbox/AP50"."""
    mean: float
    slack: float
    """Largest distance from the mean: standard deviations allowed, times one of them."""

    def holds(self, actual: float | None) -> bool:
        """Whether ``actual`` was measured and lies in the range."""
        return actual is not None and abs(actual - self.mean) <= self.slack

    def describe(self, actual: float | None) -> str:
        """Wanted, got and range in one line."""
        got = "no such result" if actual is None else f"{actual:.4f}"
        low, high = self.mean - self.slack, self.mean + self.slack
        return (
            f"{self.dataset} {self.metric}: wanted {self.mean:.4f}, got {got}, range {low:.4f} to {high:.4f}"
        )


def read_expectations(cfg: Config) -> list[Expectation]:
    """The entries ``[data set, task, metric, mean, standard deviation]`` of TEST.EXPECTED_RESULTS.

    Tasks are "box" (or "bbox"), "segm", "keypoint" ("keypoints") and "box_proposal" ("proposals"); metrics
    are named as in the tables, "AP", "AP50", "AR@1000"; mean and deviation are fractions of 1.

    Raises:
        ConfigError: an entry of another form, or one that names what the run does not evaluate.
    """
    if cfg.TEST.EXPECTED_RESULTS_SIGMA_TOL < 0:
        raise ConfigError("a tolerance is 0 or more", _TOLERANCE_KEY, cfg)
    return [_read(cfg, entry) for entry in cfg.TEST.EXPECTED_RESULTS]


def check_measurable(
    cfg: Config, expectations: Sequence[Expectation], given: Mapping[str, Sequence[str]]
) -> None:
    """Raises ConfigError where an evaluation that gives the metrics ``given``, by data set, cannot tell."""
    for each in expectations:
        if each.metric not in given[each.dataset]:
            raise ConfigError(
                f"evaluating {each.dataset} gives no {each.metric}, because it has no objects of that size, "
                f"but {', '.join(given[each.dataset])}",
                _KEY,
                cfg,
            )


def check_expectations(expectations: Sequence[Expectation], results: Mapping[str, EvaluationResult]) -> None:
    """Compares results with what was expected; logs a line for each that is off. Called on all ranks, after
    everything is written.

    Raises:
        UnexpectedResultError: a result is out of its range.
    """
    actual = [results[each.dataset].metrics.get(each.metric) for each in expectations]
    off = [
        each.describe(value)
        for each, value in zip(expectations, actual, strict=True)
        if not each.holds(value)
    ]
    # A process that ends in an error takes the others with it, and the main one may still be writing.
    distributed.barrier()
    if off:
        if distributed.is_main():
            for line in off:
                logger.error("unexpected result: %s", line)
        more = f"; and {len(off) - 1} more, see the log" if len(off) > 1 else ""
        raise UnexpectedResultError(f"unexpected result ({_KEY}): {off[0]}{more}")
    if expectations and distributed.is_main():
        logger.info("all %d results of %s are in their range", len(expectations), _KEY)


def _read(cfg: Config, entry: Any) -> Expectation:
    if not isinstance(entry, list | tuple) or len(entry) != 5:
        raise _malformed(cfg, entry, "give [data set, task, metric, mean, standard deviation]")
    dataset, word, metric, mean, deviation = entry
    if dataset not in cfg.DATASETS.TEST:
        known = ", ".join(cfg.DATASETS.TEST) or "nothing"
        raise _malformed(cfg, entry, f"the data set is not one of DATASETS.TEST, which has {known}")
    tasks, task = tasks_of(cfg), _TASKS.get(word, word) if isinstance(word, str) else word
    if task not in tasks:
        raise _malformed(cfg, entry, f"this detector is evaluated on {', '.join(tasks)}, not on {word!r}")
    names = metric_names(task)
    if metric not in names:
        near = nearest_phrase(str(metric), names)
        raise _malformed(cfg, entry, f"{task} has no metric {metric!r}{near}; there are {', '.join(names)}")
    if not (_is_number(mean) and _is_number(deviation) and deviation >= 0):
        raise _malformed(cfg, entry, "mean and standard deviation are numbers, the latter 0 or more")
    slack = cfg.TEST.EXPECTED_RESULTS_SIGMA_TOL * float(deviation)
    return Expectation(dataset, f"{task}/{metric}", float(mean), slack)


def _malformed(cfg: Config, entry: Any, problem: str) -> ConfigError:
    return ConfigError(f"expected result {entry!r}: {problem}", _KEY, cfg)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
