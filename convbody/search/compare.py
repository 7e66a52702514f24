"""Is a search ahead of chance? Its architecture beside random ones that are as quick, each trained alone."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from convbody.classification.train import train_classifier
from convbody.search.derive import choices, read_choice
from convbody.search.latency import Latencies, latencies
from convbody.search.space import SearchSpace, space_from_cfg
from registry import Config, ConfigError, ConvbodyError
from registry.program import Stopped

_TOLERANCE = 0.03  # of the latency, for a random architecture to be as quick
_TRIES = 20_000  # steps towards the latency, of all random architectures together


@dataclass(frozen=True)
class Trained:
    """An architecture that was trained alone: its latency by the table, microseconds, and its accuracy."""

    choice: tuple[str, ...]
    latency_us: float
    top1: float


@dataclass(frozen=True)
class Match:
    """What one search found, and random architectures of equal latency."""

    seed: int
    searched: Trained
    randoms: tuple[Trained, ...]

    @property
    def lead(self) -> float:
        """Accuracy of the searched one beyond the median of the random ones."""
        return self.searched.top1 - median(trained.top1 for trained in self.randoms)


def compare(cfg: Config, folders: Sequence[str], randoms: int) -> list[Match]:
    """The likeliest architecture of each search in ``folders``, and ``randoms`` as quick ones beside it.

    All are trained from random weights by the same recipe, SOLVER.MAX_ITER iterations on DATASETS.TRAIN, and
    evaluated on DATASETS.TEST; runs lie under OUTPUT_DIR/alone, and one that has ended is not repeated.

    Raises:
        ConfigError: no data set to evaluate on.
        ConvbodyError: a folder without a search of this space, or anything that training raises.
    """
    if not cfg.DATASETS.TEST:
        raise ConfigError("there is no data set to compare on", "DATASETS.TEST", cfg)
    space = space_from_cfg(cfg)
    table = latencies(cfg, space)
    matches = []
    for seed, folder in enumerate(folders):
        of_search = cfg.clone()
        of_search.OUTPUT_DIR = folder
        (found,) = choices(space, read_choice(of_search, space)[0], 0, 0)
        rivals = as_quick(space, table, table.of(space, found), randoms, seed)
        runs = [
            Trained(choice, table.of(space, choice), _alone(cfg, space, choice, f"{seed}_{number}", seed))
            for number, choice in enumerate([found, *rivals])
        ]
        matches.append(Match(seed, runs[0], tuple(runs[1:])))
    return matches


def verdict(matches: Sequence[Match]) -> str:
    """Whether the searches are ahead of the median random architecture at equal latency, in one sentence."""
    leads = [match.lead for match in matches]
    ahead = sum(lead > 0 for lead in leads)
    points = f"{100 * fmean(leads):+.2f} points of top-1 accuracy on average"
    told = f"ahead of the median random one at equal latency in {ahead} of {len(leads)} searches, {points}"
    if 2 * ahead > len(leads) and fmean(leads) > 0:
        return f"The searched architectures are {told}."
    return f"The search does not beat chance here: its architectures are {told}."


def as_quick(
    space: SearchSpace, table: Latencies, latency: float, count: int, seed: int
) -> list[tuple[str, ...]]:
    """Different random architectures within 3% of ``latency``.

    Each begins as any, and has random layers drawn anew as long as that brings it no further away.

    Raises:
        ConvbodyError: the space hardly has so many.
    """
    generator = random.Random(seed)
    found: dict[tuple[str, ...], None] = {}
    choice = space.random(generator)
    for step in range(_TRIES):
        if step % (20 * len(choice)) == 0:
            choice = space.random(generator)  # where it was led may have no way on
        if _error(space, table, choice, latency) <= _TOLERANCE:
            found[choice] = None
            if len(found) == count:
                return list(found)
            choice = space.random(generator)
        place = generator.randrange(len(choice))
        changed = (*choice[:place], generator.choice(space.candidates), *choice[place + 1 :])
        if _error(space, table, changed, latency) <= _error(space, table, choice, latency):
            choice = changed
    raise ConvbodyError(
        f"--random {count}: only {len(found)} architectures as quick were found; ask for fewer"
    )


def _error(space: SearchSpace, table: Latencies, choice: Sequence[str], latency: float) -> float:
    return abs(table.of(space, choice) / latency - 1)


def _alone(cfg: Config, space: SearchSpace, choice: Sequence[str], name: str, seed: int) -> float:
    """Top-1 accuracy of one architecture trained from random weights."""
    own = cfg.clone()
    own.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR) / "alone" / name)
    own.SEED = seed
    own.MODEL.BACKBONE.CONV_BODY, own.MODEL.BACKBONE.FREEZE_CONV_BODY_AT = "FBNet", 0
    own.MODEL.FBNET.ARCH, own.MODEL.FBNET.ARCH_DIRS = "alone", ()
    own.MODEL.FBNET.ARCH_DEF = json.dumps(space.definition(choice, training=True))
    result = train_classifier(own, resume=True)
    if result.stopped_by:
        raise Stopped(result.stopped_by)
    return result.metrics["top1"]
