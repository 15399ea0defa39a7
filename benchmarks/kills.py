"""`finercam run` killed at random moments, again and again, ends with the rows of a run that was left alone.

    python -m benchmarks.kills                                   # 20 SIGKILLs over 2,000 Fieldguide pictures
    python -m benchmarks.kills --count 200 --kills 3 --shard 16  # a small one
    python -m benchmarks.kills --ray                             # instead one Ray worker killed after each eighth

The pictures are painted once, as PNG files, into `--work`. Prints JSON: what was killed when, and whether the files of
rows are the same to the last bit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.clock import surroundings

ROOT = Path(__file__).resolve().parent.parent


def paint(folder: Path, count: int) -> Path:
    """Fieldguide pictures as PNG files in class folders; those that are there stay."""
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


def command(data: Path, out: Path, model: str, shard: int, *more: str) -> list[str]:
    fixed = ["--model", model, "--out", str(out), "--shard", str(shard), "--threads", "1"]
    return [sys.executable, "-m", "finercam.cli", "run", str(data), *fixed, *more]


def hashes(out: Path) -> dict[str, str]:
    files = sorted((out / "rows").glob("*.parquet"))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def done(out: Path) -> int:
    return len(list((out / "rows").glob("*.parquet"))) if (out / "rows").is_dir() else 0


def killed(data: Path, out: Path, model: str, shard: int, kills: int, total: int, seed: int) -> list[dict[str, Any]]:
    """Start and kill: each time as soon as another share of the shards is there, and a random moment later."""
    chance, log = random.Random(seed), []
    for turn in range(kills):
        process = subprocess.Popen(command(data, out, model, shard), stdout=subprocess.DEVNULL)
        begun, goal = time.perf_counter(), done(out) + chance.choice([0, 0, 1, 1, 2])
        while process.poll() is None and done(out) < min(goal, total - kills + turn):
            time.sleep(0.005)
        # also in the midst of imports, of the list, of the check of what is there
        time.sleep(chance.uniform(0.0, 2.0 if goal == 0 else 0.5))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        seconds = round(time.perf_counter() - begun, 2)
        log.append({"after_s": seconds, "status": process.returncode, "shards": done(out)})
    return log


def ray_killed(data: Path, out: Path, model: str, shard: int, total: int) -> list[dict[str, Any]]:
    """One run on a local cluster; after each eighth of the shards one of its workers is killed."""
    process = subprocess.Popen(command(data, out, model, shard, "--ray", "local", "--workers", "2"))
    log: list[dict[str, Any]] = []
    while process.poll() is None:
        if done(out) > (len(log) + 1) * total / 8:
            workers = [pid for pid in actors() if descends(pid, process.pid)]
            if workers:
                os.kill(workers[0], signal.SIGKILL)
                log.append({"killed": workers[0], "shards": done(out)})
        time.sleep(0.05)
    return [*log, {"status": process.returncode}]


def actors() -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if (entry / "cmdline").read_bytes().startswith(b"ray::Actor"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def descends(pid: int, ancestor: int) -> bool:
    """Whether a process was started by another one, directly or not."""
    while pid > 1 and pid != ancestor:
        try:
            pid = int((Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            return False
    return pid == ancestor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--shard", type=int, default=32)
    parser.add_argument("--model", default="fieldguide/cnn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "bench" / "kills")
    parser.add_argument("--ray", action="store_true")
    arguments = parser.parse_args()
    work: Path = arguments.work
    data = paint(work / f"pictures-{arguments.count}", arguments.count)
    total = -(-arguments.count // arguments.shard)
    whole, out = work / f"whole-{arguments.count}-{arguments.shard}", work / f"killed-{time.time_ns()}"
    subprocess.run(command(data, whole, arguments.model, arguments.shard), check=True)
    if arguments.ray:
        log = ray_killed(data, out, arguments.model, arguments.shard, total)
    else:
        log = killed(data, out, arguments.model, arguments.shard, arguments.kills, total, arguments.seed)
    subprocess.run(command(data, out, arguments.model, arguments.shard), check=True)
    found = {
        "images": arguments.count,
        "shards": total,
        "same": hashes(out) == hashes(whole) and len(hashes(out)) == total,
        "log": log,
        "surroundings": surroundings("cpu", 1),
    }
    print(json.dumps(found))
    if not found["same"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
