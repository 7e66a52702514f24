"""Time on a device that others use too, and what is worth knowing of the device."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import torch

import convbody
from registry import Config, ConfigError

_WARM_UP, _SAMPLES, _LEAST_SECONDS = 1, 3, 0.001


class Clock:
    """Takes the time of calls on the device of SEARCH.LATENCY.

    On the CPU with one thread it is the CPU time of that thread, which others on the machine hardly change;
    with more threads it is wall-clock time, on a GPU the time between events.

    Raises:
        ConfigError: no such device or number of threads.
    """

    def __init__(self, cfg: Config) -> None:
        node = cfg.SEARCH.LATENCY
        here = {"cpu": "cpu", _cpu_name(): "cpu"}
        if torch.cuda.is_available():
            here |= {"cuda": "cuda", torch.cuda.get_device_name(): "cuda"}
        if node.DEVICE not in here:
            raise ConfigError(
                f"there is no such device here to measure on; there is {', '.join(here)}",
                "SEARCH.LATENCY.DEVICE",
                cfg,
            )
        self.device = torch.device(here[node.DEVICE])
        if node.THREADS < 1:
            raise ConfigError("at least 1 thread is needed", "SEARCH.LATENCY.THREADS", cfg)
        if self.device.type == "cpu":
            torch.set_num_threads(node.THREADS)
        single = self.device.type == "cpu" and node.THREADS == 1
        self._now: Callable[[], float] = time.thread_time if single else time.perf_counter
        self.kind = "CPU time of one thread" if single else "wall-clock time"
        if self.device.type == "cuda":
            self.kind = "time between events on the GPU"

    @property
    def name(self) -> str:
        """What the device calls itself."""
        return torch.cuda.get_device_name() if self.device.type == "cuda" else _cpu_name()

    @torch.inference_mode()
    def microseconds(self, call: Callable[[], Any]) -> float:
        """Median of a few samples, after warm-up; short calls are repeated within a sample."""
        for _ in range(_WARM_UP):
            call()
        once = self._seconds(call, 1)
        repeats = max(1, round(_LEAST_SECONDS / max(once, 1e-7)))
        return 1e6 * median(self._seconds(call, repeats) / repeats for _ in range(_SAMPLES))

    def _seconds(self, call: Callable[[], Any], repeats: int) -> float:
        if self.device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(repeats):
                call()
            end.record()
            end.synchronize()
            return begin.elapsed_time(end) / 1000
        started = self._now()
        for _ in range(repeats):
            call()
        return self._now() - started

    def facts(self) -> dict[str, Any]:
        """How time is taken, the clock rates now, and versions."""
        return {
            "timer": self.kind,
            "clocks": _clocks(self.device),
            "versions": {
                "convbody": convbody.__version__,
                "python": platform.python_version(),
                "torch": str(torch.__version__),
                "cuda": torch.version.cuda or "none",
            },
        }


class ProgressBar:
    """Says on stderr how far a measurement is and how long it still takes; in a file, every tenth."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._since = total, 0, time.monotonic()

    def step(self, what: str) -> None:
        """One of them is done, and ``what`` was it."""
        self._done += 1
        terminal, total = sys.stderr.isatty(), self._total
        if not terminal and self._done * 10 // total == (self._done - 1) * 10 // total:
            return
        left = (time.monotonic() - self._since) / self._done * (total - self._done)
        bar = "#" * (24 * self._done // total)
        line = f"[{bar:<24}] {self._done}/{total}  eta {timedelta(seconds=round(left))}  {what:<44}"
        end = "\r" if terminal and self._done < total else "\n"
        print(line if terminal else line.rstrip(), end=end, file=sys.stderr, flush=True)


def _cpu_name() -> str:
    """The processor's name: Linux tells it in /proc/cpuinfo only."""
    found = re.search(r"^model name\s*:\s*(.+)$", _cpu_info(), re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def _cpu_info() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


def _clocks(device: torch.device) -> str:
    """Clock rates in MHz, as far as the system tells them."""
    if device.type == "cuda":
        query = ["nvidia-smi", "--query-gpu=clocks.sm,clocks.mem", "--format=csv,noheader", "-i", "0"]
        try:
            return subprocess.run(
                query, capture_output=True, text=True, timeout=20, check=True
            ).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return "unknown"
    rates = re.findall(r"^cpu MHz\s*:\s*([\d.]+)$", _cpu_info(), re.MULTILINE)
    busy = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{', '.join(rates) or 'unknown'} MHz{busy}"
