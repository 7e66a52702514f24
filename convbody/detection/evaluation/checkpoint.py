"""Evaluate what a run has trained."""

from __future__ import annotations

from pathlib import Path

from convbody.data.exif_choice import for_testing
from convbody.detection.data import check_class_count, open_test_sets
from convbody.detection.data.catalog import labels_by_id
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

    Classes are those that the weights' file names; a test set may have fewer of them. Images are turned by
    their EXIF orientation as those of the training were, or as DATASETS.EXIF says.

    Raises:
        ConfigError: a test set has other classes than the weights.
        UnexpectedResultError: a result is not what TEST.EXPECTED_RESULTS says, once all is written.
    """
    expectations = read_expectations(cfg)
    choose_evaluator(cfg)  # raises before the weights are loaded
    output_dir = Path(cfg.OUTPUT_DIR)
    setup_logging(output_dir)
    trained = load_trained(cfg, weights)
    test_sets = open_test_sets(for_testing(cfg, trained.weights.notes), trained.known)
    if trained.known is None and not labels_by_id(cfg):
        # Labels are places in the order of ids, so that with fewer classes they would be others.
        for dataset in test_sets.values():
            check_class_count(cfg, trained.model.needs, dataset)
    results = evaluate_all(trained.model, cfg, test_sets, output_dir)
    check_expectations(expectations, results)
    return results
