"""Evaluate what a run has trained."""

from __future__ import annotations

from pathlib import Path

from convbody.detection.data import open_test_sets
from convbody.detection.evaluation.evaluators import choose_evaluator
from convbody.detection.evaluation.expected import check_expectations, read_expectations
from convbody.detection.evaluation.result import EvaluationResult
from convbody.detection.evaluation.run import evaluate_all
from convbody.detection.trained import load_trained
from convbody.training.logging import setup_logging
from registry import Config


def evaluate_checkpoint(cfg: Config, weights: Path | str | None = None) -> dict[str, EvaluationResult]:
    """Evaluate trained weights (see ``load_trained``) on each of DATASETS.TEST: name -> result.

    The table goes to the log, metrics and detections to ``OUTPUT_DIR/evaluation/<name>/``. Each process of a
    distributed run calls this alike.

    Raises:
        UnexpectedResultError: a result is not what TEST.EXPECTED_RESULTS says, once all is written.
    """
    expectations = read_expectations(cfg)
    choose_evaluator(cfg)  # raises before the weights are loaded
    output_dir = Path(cfg.OUTPUT_DIR)
    setup_logging(output_dir)
    results = evaluate_all(load_trained(cfg, weights), cfg, open_test_sets(cfg), output_dir)
    check_expectations(expectations, results)
    return results
