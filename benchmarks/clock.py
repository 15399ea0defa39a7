"""Measurements on a shared machine: paired times, peak memory of a separate process, and the environment."""

from __future__ import annotations

import ctypes
import gc
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

Work = Callable[[], Any]
ROOT = Path(__file__).resolve().parent.parent


def synchronise(device: str) -> None:
    if device != "cpu":
        torch.accelerator.synchronize()


def interleaved(
    works: Mapping[str, Work], rounds: int, device: str = "cpu", slow: Mapping[str, int] | None = None
) -> dict[str, dict[str, list[float]]]:
    """Run all works once per round, after a warm-up round: `{name: {"wall": [s], "cpu": [s]}}`.

    `slow` maps works to a smaller number of rounds. The order is rotated by one place in each round, so that no
    work always follows the same one.
    """
    slow = slow or {}
    names = list(works)
    times: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": []} for name in names}
    for name in names:
        if name not in slow:
            works[name]()
    for turn in range(rounds):
        at = turn % len(names)
        for name in names[at:] + names[:at]:
            if turn >= slow.get(name, rounds):
                continue
            synchronise(device)
            wall, cpu = time.perf_counter(), time.process_time()
            works[name]()
            synchronise(device)
            times[name]["wall"].append(time.perf_counter() - wall)
            times[name]["cpu"].append(time.process_time() - cpu)
    return times


def summary(times: Mapping[str, Mapping[str, list[float]]], base: str = "forward") -> dict[str, dict[str, Any]]:
    """Median seconds, and the median ratio to `base` in the same round with its quartiles, by both clocks."""
    found: dict[str, dict[str, Any]] = {}
    for name, clocks in times.items():
        entry: dict[str, Any] = {"rounds": len(clocks["wall"])}
        for clock, seconds in clocks.items():
            against = times[base][clock]
            ratios = [s / b for s, b in zip(seconds, against, strict=False)]
            entry[clock] = {
                "seconds": statistics.median(seconds),
                "ratio": statistics.median(ratios),
                "quartiles": quartiles(ratios),
                "ratio_of_fastest": min(seconds) / min(against),
            }
        found[name] = entry
    return found


def quartiles(values: list[float]) -> list[float]:
    if len(values) < 2:
        return [values[0], values[0]]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return [low, high]


def peak_bytes(work: Work, warm_up: Work, device: str = "cpu") -> int:
    """Transient memory of a call in bytes: the highest resident set during the call minus the one before it.

    `warm_up` is the same on a smaller batch; it loads code and fills caches.

    On a CPU Linux counts: the process's high-water mark is reset before the call (`/proc/self/clear_refs`), so
    scratch space of libraries and NumPy copies count as much as tensors. Run it in a process where malloc returns
    every large block at once (`MALLOC`), else freed memory of earlier calls hides new demand. On a GPU the caching
    allocator counts.
    """
    warm_up()
    gc.collect()
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        kept = work()
        torch.cuda.synchronize()
        del kept
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    kept = work()
    peak = _status("VmHWM")
    del kept
    return peak - before


MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


def _status(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found.group(1)) * 1024


def in_child(module: str, *arguments: str, threads: int = 1) -> Any:
    """The last line that `python -m module arguments` prints in a new process, parsed as JSON."""
    environment = {**os.environ, **MALLOC, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def import_times(names: tuple[str, ...], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds that a new interpreter needs for `import name`, interleaved, with the start of the interpreter."""
    code = (
        "import time, json; w, c = time.perf_counter(), time.process_time(); import {}; "
        "print(json.dumps([time.perf_counter() - w, time.process_time() - c]))"
    )
    times: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": []} for name in names}
    for turn in range(rounds + 1):  # the first one fills the file cache
        for name in names:
            done = subprocess.run(
                [sys.executable, "-c", code.format(name)], capture_output=True, text=True, check=True
            )
            wall, cpu = json.loads(done.stdout)
            if turn:
                times[name]["wall"].append(wall)
                times[name]["cpu"].append(cpu)
    return times


def surroundings(device: str, threads: int) -> dict[str, Any]:
    """Versions, hardware, commit and load of the machine, to be reported with every number."""
    packages = ("finercam", "torch", "torchvision", "timm", "grad-cam", "torchcam", "numpy")
    load = os.getloadavg()
    return {
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in packages}},
        "processor": _processor(),
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name() if device != "cpu" else "cpu",
        "threads": threads,
        "load_average": [round(value, 2) for value in load],
        "commit": _git("rev-parse", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "--untracked-files=no", "--", "src", "benchmarks")),
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", listing.read_text(), re.MULTILINE) if listing.exists() else None
    return found.group(1) if found else platform.processor()


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
