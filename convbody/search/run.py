"""The state of a search, and its two kinds of steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from convbody.classification.data.loader import Batch
from convbody.classification.initial import classifier_losses
from convbody.search.checkpoint import SearchCheckpoint
from convbody.search.choice import adapted_beta, gumbel_shares, pressure, search_loss, targeted_loss
from convbody.search.latency import Latencies
from convbody.search.space import SearchSpace
from convbody.search.split import Timetable
from convbody.search.supernet import Supernet
from convbody.training import distributed
from convbody.training.checkpoint import MisfitError
from convbody.training.optimizer_state import check_optimizer, load_optimizer
from convbody.training.random_state import random_state, seed_everything
from convbody.training.resume import check_weights, set_random_states
from convbody.training.schedule import build_optimizer, learning_rate, set_learning_rate
from convbody.training.step import autocast_dtype
from registry import Config, ConfigError


class Mixture(nn.Module):
    """The supernet with given shares of its candidates, as a classifier."""

    def __init__(self, supernet: Supernet, shares: Tensor) -> None:
        super().__init__()
        self.supernet, self.shares = supernet, shares

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) -> logits (N, classes)."""
        logits: Tensor = self.supernet(images, self.shares)
        return logits


class SearchRun:
    """The parts of a search that change, and the steps that change them.

    Raises:
        ConfigError: float16, which would need its loss scaled, or a schedule that cannot be.
    """

    kind = SearchCheckpoint

    def __init__(
        self,
        cfg: Config,
        space: SearchSpace,
        table: Latencies,
        model: Supernet,
        plan: Timetable,
        notes: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """``notes`` are plain values that every checkpoint has."""
        self._dtype = autocast_dtype(cfg)
        if self._dtype is torch.float16:
            raise ConfigError("use float32 or bfloat16", "DTYPE", cfg)
        self.cfg, self.space, self.table, self.model, self.plan = cfg, space, table, model, plan
        self.weights = nn.ModuleList([model.first, model.layers, model.fc])
        schedule = cfg.clone()
        schedule.SOLVER.MAX_ITER = plan.epochs * plan.weight_steps
        self._rate = learning_rate(schedule)
        self.weight_optimizer = build_optimizer(cfg, self.weights)
        self.theta_optimizer = torch.optim.Adam(
            [model.theta], lr=cfg.SEARCH.THETA_LR, weight_decay=cfg.SEARCH.THETA_WEIGHT_DECAY
        )
        self._losses = classifier_losses(cfg)
        self.beta = float(cfg.SEARCH.BETA)
        self.sums: dict[str, float] = {}
        self.gradient = torch.zeros_like(model.theta, device="cpu")
        self.notes = notes

    def temperature(self, epoch: int) -> float:
        """Of the Gumbel-softmax in an epoch; it falls from the first one that trains the choice on."""
        trained = max(epoch - self.plan.warmup, 0)
        return float(self.cfg.SEARCH.TEMPERATURE * math.exp(-self.cfg.SEARCH.TEMPERATURE_DECAY * trained))

    def weight_step(self, batch: Batch, number: int, epoch: int) -> float:
        """One step of the weights, which minimise the cross-entropy: latency is no function of theirs."""
        with torch.no_grad():
            shares = gumbel_shares(self.model.theta, self.temperature(epoch))
        loss = self.cross_entropy(batch, shares)
        loss.backward()
        _average_gradients(self.weights.parameters())
        set_learning_rate(self.weight_optimizer, self._rate(number))
        self.weight_optimizer.step()
        self.weight_optimizer.zero_grad()
        return self._count("weights", loss)

    def theta_step(self, batch: Batch, epoch: int) -> float:
        """One step of the choice, which minimises ``search_loss``, or with a target ``targeted_loss``."""
        node, theta = self.cfg.SEARCH, self.model.theta
        shares = gumbel_shares(theta, self.temperature(epoch))
        cross_entropy, latency = self.cross_entropy(batch, shares), self.table.expected(shares)
        if node.TARGET_LATENCY > 0:
            exponent = pressure(self.beta, self.expected_latency(), node.TARGET_LATENCY)
            loss = targeted_loss(cross_entropy, latency, exponent)
        else:
            loss = search_loss(cross_entropy, latency, node.ALPHA, self.beta)
        loss.backward(inputs=[theta])
        _average_gradients([theta])
        assert theta.grad is not None
        self.gradient += theta.grad.cpu()
        self.theta_optimizer.step()
        self.theta_optimizer.zero_grad()
        if node.TARGET_LATENCY > 0:
            self.beta = adapted_beta(self.beta, self.expected_latency(), node.TARGET_LATENCY, node.BETA_RATE)
        return self._count("theta", loss)

    @torch.no_grad()
    def expected_latency(self) -> float:
        """Microseconds of an architecture drawn by the choice as it is."""
        return self.table.expected(self.model.theta.double().cpu().softmax(1)).item()

    def likeliest(self) -> tuple[str, ...]:
        """The architecture of the likeliest candidate of each layer."""
        return tuple(self.space.candidates[index] for index in self.model.theta.argmax(1).tolist())

    def report(self, epoch: int) -> dict[str, Any]:
        """The row of an epoch, whose sums begin anew; losses are means over processes: all must call."""
        ranks = distributed.all_gather_object(dict(self.sums))
        totals = {name: sum(rank[name] for rank in ranks) for name in ranks[0]}
        layers, candidates = range(len(self.space.layers)), self.space.candidates
        names = [f"{number:02}/{op}" for number in layers for op in candidates]
        steps = max(self.sums.get("theta steps", 0.0), 1.0)
        row = {
            "epoch": epoch,
            "temperature": self.temperature(epoch),
            "beta": self.beta,
            "losses": {
                name: totals[name] / totals[f"{name} steps"]
                for name in ("weights", "theta")
                if name in totals
            },
            "latency_us": {
                "expected": self.expected_latency(),
                "likeliest": self.table.of(self.space, self.likeliest()),
            },
            "theta": dict(zip(names, self.model.theta.detach().flatten().tolist(), strict=True)),
            "theta_gradient": dict(zip(names, (self.gradient / steps).flatten().tolist(), strict=True)),
        }
        self.sums, self.gradient = {}, torch.zeros_like(self.gradient)
        return row

    def seed(self, step: int) -> None:
        """Seed this process, differently from the others, so that each draws other candidates."""
        seed_everything(self.cfg.SEED + 1000 * step + distributed.rank())

    def capture(self, step: int) -> dict[str, Any]:
        """A checkpoint's payload after ``step`` steps. Every process must call it."""
        distributed.broadcast_buffers(self.model)
        return {
            **self.notes,
            "model": self.model.state_dict(),
            "iteration": step,
            "space": self.space.definition(self.likeliest()) | {"candidates": list(self.space.candidates)},
            "weight_optimizer": self.weight_optimizer.state_dict(),
            "theta_optimizer": self.theta_optimizer.state_dict(),
            "beta": self.beta,
            "sums": distributed.all_gather_object(self.sums),
            "gradient": self.gradient,
            "random": distributed.all_gather_object(random_state()),
            "config": self.cfg.dump(),
        }

    def check(self, payload: dict[str, Any], path: Path) -> None:
        """Raise MisfitError for a payload, read from ``path``, of another search."""
        check_weights(self.model, payload["model"], path)
        if payload["space"]["candidates"] != list(self.space.candidates):
            raise MisfitError(f"{path} has other candidates; resume with the config of the search")
        check_optimizer(self.weight_optimizer, payload["weight_optimizer"], path)
        check_optimizer(self.theta_optimizer, payload["theta_optimizer"], path)

    def restore(self, payload: dict[str, Any], path: Path) -> int:
        """Continue from a payload that ``check`` accepts; returns its step. Every process must call it."""
        self.model.load_state_dict(payload["model"])
        load_optimizer(self.weight_optimizer, payload["weight_optimizer"])
        load_optimizer(self.theta_optimizer, payload["theta_optimizer"])
        self.beta, self.gradient = payload["beta"], payload["gradient"]
        if len(payload["sums"]) == distributed.world_size():
            self.sums = payload["sums"][distributed.rank()]
        set_random_states(self, payload, path)
        return int(payload["iteration"])

    def cross_entropy(self, batch: Batch, shares: Tensor) -> Tensor:
        """Of a batch, with these shares of the candidates."""
        device = self.model.theta.device.type
        with torch.autocast(device, self._dtype, enabled=self._dtype is not torch.float32):
            (loss,) = self._losses(Mixture(self.model, shares), batch).values()
        return loss

    def _count(self, name: str, loss: Tensor) -> float:
        value = loss.item()
        self.sums[name] = self.sums.get(name, 0.0) + value
        self.sums[f"{name} steps"] = self.sums.get(f"{name} steps", 0.0) + 1
        return value


@torch.no_grad()
def _average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Over all processes; a candidate that a process did not run has no gradient there, which counts as 0."""
    if distributed.world_size() == 1:
        return
    trained = list(parameters)
    gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in trained]
    packed = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(packed)
    packed /= distributed.world_size()
    sizes = [parameter.numel() for parameter in trained]
    for parameter, part in zip(trained, packed.split(sizes), strict=True):
        parameter.grad = part.view_as(parameter).clone()
