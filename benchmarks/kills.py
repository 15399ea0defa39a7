"""`finercam run` killed again and again: whatever was finished stays, and in the end every file of rows is the same.

    python -m benchmarks.kills                                             # 1,000 SIGKILLs
    python -m benchmarks.kills --events 30 --moments 20 --typed 9 --far 4 --apps 2 --commands 5 --workers 4 --drivers 1

Runs over small Fieldguide pictures are killed by SIGKILL, each time in one of these ways, and then continued. The first
five are forked from a process that has imported everything, and the whole process group is killed.

- event: at a random call of the system for a file in the run's folder (lock, list, manifest, rows, summary, clean-up);
- moment: after a random time, from the start of the run to its end;
- typed: the same for the command as it is typed, with the loading of the model;
- far: a run whose `--out` is an address, so that it has a temporary folder;
- app: the web app while it starts, or when it serves;
- command: a new process with its imports;
- worker: one Ray worker of two, at a random moment while the command runs on a local cluster;
- driver: the command that runs on a local cluster, alone or with its process group.

After each kill every file of rows is compared with that of an undisturbed run, and none that was there may be missing.
A run that gets to its end is compared as a whole (files of rows and summary, nothing left half-written) and then
deleted, so that the next kill meets a new one. In the end another start must remove all temporary folders that were left.
Ctrl-C ends it early. Prints JSON with the number of kills by kind and by what was on the disk; exit status 1 with faults.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.clock import surroundings

from finercam.app.serve import SCRATCH as APP
from finercam.io import scratch_folder
from finercam.run.store import SCRATCH as STORE

ROOT = Path(__file__).resolve().parent.parent
EVENTS = frozenset(["open", "os.rename", "os.remove", "os.mkdir", "os.listdir", "os.scandir", "fcntl.flock"])
KINDS = {"events": 420, "moments": 360, "typed": 110, "far": 30, "apps": 20}
KINDS |= {"commands": 24, "workers": 24, "drivers": 12}
"""Default number of SIGKILLs of each kind."""


def paint(folder: Path, count: int) -> Path:
    """Write Fieldguide pictures as PNG files in class folders; existing files are kept."""
    from finercam.data.fieldguide import Fieldguide

    birds = Fieldguide(count)
    for index in range(count):
        file = folder / birds.classes[birds.label(index)] / f"{index:06d}.png"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(".part")
            birds.image(index).save(part, "PNG")
            part.replace(file)
    return folder


def explain(data: str, out: str, model: str, shard: int, die_at: int, seen: Any) -> None:
    """In a separate process: a run that kills itself at its `die_at`-th event in `out`; `seen` counts the events."""
    os.setsid()

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if event in EVENTS and (event == "fcntl.flock" or any(str(arg).startswith(out) for arg in args[:2])):
            seen.value += 1
            if seen.value == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    from finercam.models import load_model
    from finercam.run import explain_dataset

    loaded = load_model(model)
    if "://" not in out:
        sys.addaudithook(watch)
    explain_dataset(data, loaded, out, shard=shard, threads=1, readers=1, batch=4, model_string=model)


def typed(arguments: list[str]) -> None:
    """In a separate process: the command line."""
    os.setsid()
    from finercam import cli

    with Path(os.devnull).open("w") as nowhere:
        sys.stdout, sys.argv = nowhere, ["finercam", *arguments]
        cli.main()


def serve() -> None:
    """In a separate process: the web app."""
    os.setsid()
    from finercam.app.serve import serving

    with serving():
        time.sleep(60)


@dataclass
class Trial:
    """A folder in which runs are killed, and its state."""

    data: Path
    work: Path
    model: str
    shard: int
    chance: random.Random
    whole: dict[str, str] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    kills: Counter[str] = field(default_factory=Counter)
    stages: Counter[str] = field(default_factory=Counter)
    resumed: int = 0
    finished: int = 0
    running: subprocess.Popen[bytes] | None = None
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.out = self.work / "killed"
        shutil.rmtree(self.out, ignore_errors=True)
        context = multiprocessing.get_context("forkserver")
        self.temporary = self.work / "temporary"
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir()
        self.system = {**os.environ}  # Ray's sockets need short paths
        os.environ["TMPDIR"] = tempfile.tempdir = str(self.temporary)
        preloaded = ["torch", "pandas", "gradio", "finercam.run", "finercam.models", "finercam.app.page"]
        context.set_forkserver_preload([*preloaded, "finercam.cli", __name__])
        self.context, self.seen = context, context.Value("q", 0)
        reference = self.work / "whole"
        shutil.rmtree(reference, ignore_errors=True)
        for _ in range(2):  # the first one also starts the server
            shutil.rmtree(reference, ignore_errors=True)
            begun = time.perf_counter()
            self.wait(self.start(reference), reference)
            self.seconds = time.perf_counter() - begun
        self.events, self.whole = self.seen.value, self.hashes(reference)
        self.total = len(self.whole)

    def start(self, out: Path, die_at: int = 0) -> Any:
        self.seen.value = 0
        process = self.context.Process(
            target=explain, args=(str(self.data), str(out), self.model, self.shard, die_at, self.seen)
        )
        process.start()
        return process

    def forked(self, target: Callable[..., None], *given: Any) -> Any:
        process = self.context.Process(target=target, args=given)
        process.start()
        return process

    def wait(self, process: Any, out: Path) -> None:
        process.join()
        if process.exitcode not in (0, -signal.SIGKILL):
            self.faults.append(f"a run ended with status {process.exitcode}")

    def arguments(self) -> list[str]:
        fixed = ["--model", self.model, "--shard", str(self.shard), "--batch-size", "4", "--threads", "1"]
        return ["run", str(self.data), "--out", str(self.out), *fixed, "--readers", "1"]

    def command(self, *more: str) -> subprocess.Popen[bytes]:
        program = [sys.executable, "-m", "finercam.cli", *self.arguments(), *more]
        self.running = subprocess.Popen(program, stdout=subprocess.DEVNULL, start_new_session=True, env=self.system)
        return self.running

    def hashes(self, out: Path) -> dict[str, str]:
        files = [*(out / "rows").glob("*.parquet"), *out.glob("summary.json")]
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    def check(self, kind: str, killed: bool) -> None:
        """Compare the files on the disk with the undisturbed run, and delete a finished run."""
        found = self.hashes(self.out)
        for name in found:
            if found[name] != self.whole.get(name):
                self.faults.append(f"after {kind}: {name} differs")
        if lost := self.kept - set(found):
            self.faults.append(f"after {kind}: {sorted(lost)} lost")
        begun, self.kept = bool(self.kept), set(found)
        if killed:
            self.kills[kind] += 1
            self.stages[self.stage(found)] += 1
            self.resumed += begun
            return
        if len(found) != self.total or list(self.out.rglob(".writing-*")):
            self.faults.append(
                f"after {kind}: a finished run has {sorted(path.name for path in self.out.rglob('*'))}"
            )
        self.finished += 1
        self.kept = set()
        shutil.rmtree(self.out)

    def stage(self, found: dict[str, str]) -> str:
        rows = sum(name.endswith(".parquet") for name in found)
        if rows:
            return "finished" if "summary.json" in found else "rows" if rows < self.total - 1 else "all rows"
        names = [name for name in ("list.parquet", "manifest.json", ".lock") if (self.out / name).exists()]
        return (
            {"list.parquet": "list", "manifest.json": "manifest", ".lock": "lock"}[names[0]] if names else "nothing"
        )

    def kill(self, wanted: dict[str, int]) -> dict[str, float]:
        """Kill the given number of runs of each kind in random order until done or interrupted; returns seconds by kind."""
        seconds = dict.fromkeys(wanted, 0.0)
        try:
            while left := {kind: n - self.kills[kind] for kind, n in wanted.items() if n > self.kills[kind]}:
                kind = self.chance.choices(list(left), list(left.values()))[0]
                since = time.perf_counter()
                if kind == "worker":
                    self.by_workers(min(left[kind], 8))
                else:
                    getattr(self, f"by_{kind}")()
                seconds[kind] += time.perf_counter() - since
                print(f"{sum(self.kills.values())} kills, {len(self.faults)} faults", end="\r", file=sys.stderr)
        except KeyboardInterrupt:
            print("interrupted: the counts are those until now", file=sys.stderr)
            if self.running is not None and self.running.poll() is None:
                self.running.kill()
                self.running.wait()
            self.kept = set()
        return seconds

    def by_event(self) -> None:
        process = self.start(self.out, die_at=self.chance.randint(1, self.events))
        self.wait(process, self.out)
        self.check("event", process.exitcode != 0)

    def by_moment(self) -> None:
        process = self.start(self.out)
        self.killed_within(process, 1.1 * self.seconds)
        self.check("moment", process.exitcode != 0)

    def by_typed(self) -> None:
        process = self.forked(typed, self.arguments())
        self.killed_within(process, 1.3 * self.seconds)
        self.check("typed", process.exitcode != 0)

    def by_far(self) -> None:
        """An address has no lock and no flag of what is whole, so that only a finished run is compared."""
        out = self.work / "far"
        process = self.forked(explain, str(self.data), out.as_uri(), self.model, self.shard, 0, self.seen)
        self.killed_within(process, 1.1 * self.seconds)
        if process.exitcode == 0:
            if self.hashes(out) != self.whole:
                self.faults.append(f"after far: {sorted(self.hashes(out))}")
            self.finished += 1
            shutil.rmtree(out)
        self.kills["far"] += process.exitcode != 0

    def by_app(self) -> None:
        process = self.forked(serve)
        self.killed_within(process, 3.0)
        self.kills["app"] += 1

    def killed_within(self, process: Any, seconds: float) -> None:
        process.join(self.chance.uniform(0, seconds))
        kill_group(process.pid)
        self.wait(process, self.out)

    def sweep(self) -> int:
        """The temporary folders that kills left; another start of both programs must remove them."""
        left = list(self.temporary.glob("finercam-*"))
        for path in left:
            os.utime(path, (1, 1))  # as if it had been left some time ago
        for prefix in (STORE, APP):
            with scratch_folder(prefix):
                pass
        if still := [path.name for path in self.temporary.glob("finercam-*")]:
            self.faults.append(f"temporary folders stay: {still}")
        return len(left)

    def by_command(self) -> None:
        begun = time.perf_counter()
        process = self.command()
        self.killed_later(process, self.chance.uniform(0, getattr(self, "command_seconds", 20.0)))
        if process.returncode == 0:
            self.command_seconds = 1.05 * (time.perf_counter() - begun)
        self.check("command", process.returncode != 0)

    def by_driver(self) -> None:
        process = self.command("--ray", "local", "--workers", "2")
        self.killed_later(process, self.chance.uniform(0, 25), group=self.chance.random() < 0.5)
        wait_for_end([pid for pid in ray_workers() if pid not in self.others])
        self.check("driver", process.returncode != 0)

    def by_workers(self, most: int) -> None:
        """Run one command on a local cluster and kill a worker every few seconds."""
        process = self.command("--ray", "local", "--workers", "2")
        killed = 0
        while process.poll() is None:
            time.sleep(self.chance.uniform(0, 2))
            workers = [pid for pid in ray_workers() if descends(pid, process.pid)]
            if workers and killed < most and process.poll() is None:
                os.kill(self.chance.choice(workers), signal.SIGKILL)
                killed += 1
                self.kills["worker"] += 1
        if process.returncode not in (0, 2):  # 2: a shard whose worker died too often; the same command continues
            self.faults.append(f"with workers killed a command ended with status {process.returncode}")
        self.check("worker", process.returncode != 0)
        self.kills["worker"] -= process.returncode != 0  # counted where it was killed

    @staticmethod
    def killed_later(process: subprocess.Popen[bytes], seconds: float, group: bool = True) -> None:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            kill_group(process.pid) if group else process.kill()
            process.wait()

    others: frozenset[int] = frozenset()


def kill_group(pid: int) -> None:
    """SIGKILL for a process and its group; only the process if it has not made its group yet."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def ray_workers() -> list[int]:
    """Process ids of Ray's actors, which carry the name of their class."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if (entry / "cmdline").read_bytes().startswith(b"ray::Actor"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def wait_for_end(processes: list[int], seconds: float = 30) -> None:
    """Wait until the workers of a killed driver have ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and any((Path("/proc") / str(pid)).exists() for pid in processes):
        time.sleep(0.1)


def descends(pid: int, ancestor: int) -> bool:
    """Whether a process was started by another one, directly or indirectly."""
    while pid > 1 and pid != ancestor:
        try:
            pid = int((Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            return False
    return pid == ancestor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for kind, count in KINDS.items():
        parser.add_argument(f"--{kind}", type=int, default=count, help=f"SIGKILLs of this kind [{count}]")
    parser.add_argument("--count", type=int, default=24, help="pictures of a run [24]")
    parser.add_argument("--shard", type=int, default=4)
    parser.add_argument("--model", default="fieldguide/cnn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "bench" / "kills")
    given = parser.parse_args()
    for ending in (signal.SIGINT, signal.SIGTERM):  # in the background a shell has Ctrl-C ignored
        signal.signal(ending, signal.default_int_handler)
    data = paint(given.work / f"pictures-{given.count}", given.count)
    begun = time.perf_counter()
    trial = Trial(data, given.work, given.model, given.shard, random.Random(given.seed))
    trial.others = frozenset(ray_workers())
    wanted = {kind.removesuffix("s"): getattr(given, kind) for kind in KINDS}
    seconds = trial.kill(wanted)
    trial.wait(trial.start(trial.out), trial.out)  # the last one to its end
    trial.check("the last run", killed=False)
    kinds = {kind: {"kills": trial.kills[kind], "seconds": round(seconds[kind], 1)} for kind in seconds}
    found = {
        "kills": sum(trial.kills.values()),
        "by_kind": kinds,
        "on_the_disk_after_a_kill": dict(trial.stages),
        "killed_runs_that_continued_one_with_rows": trial.resumed,
        "temporary_folders_removed": trial.sweep(),
        "finished_runs_compared": trial.finished,
        "images": given.count,
        "files_of_rows": trial.total - 1,
        "events_of_a_run": trial.events,
        "faults": trial.faults,
        "seconds": round(time.perf_counter() - begun, 1),
        "surroundings": surroundings("cpu", 1),
    }
    print(json.dumps(found))
    if trial.faults:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
