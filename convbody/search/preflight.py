"""What a search needs, opened, checked and tried before its first step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from convbody.classification.data.loader import (
    Batch,
    open_test_sets,
    open_train_sets,
    train_batches,
    trial_batch,
)
from convbody.classification.data.sets import LabelledImages
from convbody.classification.preflight import known_of, known_to_resume, log_table, rehearse_evaluation
from convbody.data.batches import NumberedBatches
from convbody.search.choice import gumbel_shares
from convbody.search.latency import Latencies, latencies
from convbody.search.run import Mixture, SearchRun
from convbody.search.space import SearchSpace, space_from_cfg
from convbody.search.split import Timetable, split, timetable
from convbody.search.supernet import build_supernet
from convbody.training import distributed
from convbody.training.class_rows import CLASSES
from convbody.training.findings import Findings
from convbody.training.logging import setup_logging
from convbody.training.preflight import (
    check_settings,
    is_ready,
    log_clean,
    optimizer_growth,
    rehearse_saving,
    rehearse_step,
    untouched,
)
from registry import Config


@dataclass(frozen=True)
class Prepared:
    """The parts of a search: its state, the batches for weights and for the choice, and the test sets."""

    run: SearchRun
    batches: list[NumberedBatches[Batch]]
    test_sets: list[LabelledImages]


def dry_run(cfg: Config, *, resume: bool = False) -> None:
    """``preflight`` alone, with its log on the console."""
    setup_logging()
    preflight(cfg, resume=resume)
    log_clean()


def preflight(cfg: Config, *, resume: bool = False) -> Prepared:
    """The parts of the search that ``cfg`` describes, after all that can be known of it by now is known.

    What is tried is what a classifier's preflight tries, with the supernet. Each process of a distributed run
    calls this alike.

    Raises:
        ConvbodyError: what would keep the search from its end; of several findings, all.
    """
    findings = Findings()
    check_settings(cfg, findings)
    space = findings.attempt(space_from_cfg, cfg)
    table = findings.attempt(latencies, cfg, space) if space else None
    known = known_to_resume(cfg, resume)
    train_sets = findings.attempt(open_train_sets, cfg, known)
    known = known or known_of(train_sets)
    test_sets = findings.attempt(open_test_sets, cfg, known)
    log_table(train_sets or [], test_sets or [])
    parts = findings.attempt(split, cfg, train_sets) if train_sets else None
    batches = [findings.attempt(train_batches, cfg, part) for part in parts] if parts else [None]
    plan = findings.attempt(timetable, cfg, *(sum(map(len, part)) for part in parts)) if parts else None
    run = None
    if space and table and plan:
        notes = {CLASSES: list(known.classes)} if known else {}
        run = findings.attempt(_begin, cfg, space, table, plan, notes)
    if is_ready(train_sets, test_sets, run, *batches):
        assert train_sets and test_sets is not None and run is not None
        with untouched(run.model):
            shares = run.model.theta.detach().softmax(1)
            rehearse_evaluation(cfg, findings, Mixture(run.model, shares), test_sets)
            with findings.rehearsing("a step of weights"):
                rehearse_step(cfg, run.model, _losses(run), trial_batch(cfg, train_sets))
        growth = optimizer_growth(run.weight_optimizer, run.theta_optimizer)
        rehearse_saving(findings, run, growth, Path(cfg.OUTPUT_DIR), resume)
    findings.stop_if_any()
    return Prepared(cast(SearchRun, run), cast(Any, batches), test_sets or [])


def _begin(
    cfg: Config, space: SearchSpace, table: Latencies, plan: Timetable, notes: dict[str, Any]
) -> SearchRun:
    torch.manual_seed(cfg.SEED)
    model = build_supernet(cfg, space).to(distributed.device_for(cfg)).train()
    return SearchRun(cfg, space, table, model, plan, notes)


def _losses(run: SearchRun) -> Callable[[nn.Module, Batch], dict[str, Tensor]]:
    def losses(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        shares = gumbel_shares(run.model.theta, run.temperature(run.plan.warmup))
        return {"the cross-entropy": run.cross_entropy(batch, shares)}

    return losses
