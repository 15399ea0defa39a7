"""The cost of `finercam run` compared with plain inference, in time, memory and bytes.

    python -m benchmarks.run                                        # all parts at full size
    python -m benchmarks.run --only speed --models cnn --images 64 --rounds 3
    python -m benchmarks.run --only memory --sizes 1000,20000
    python -m benchmarks.run --only size --images 1000
    python -m benchmarks.run --only ask --images 20000
    python -m benchmarks.run --only precision --images 200

- speed: images per second of a run, divided by those of a loop that reads the same files with the same threads, preprocesses,
  batches and calls the model under `no_grad`. Both run alternately; the result is the median ratio over the rounds.
- memory: the highest resident set of a process that runs over a number of images, for several numbers.
- size: bytes of a run for 1,000 images, and the share of the evidence.
- ask: seconds to ask a finished run for another gamma without the model, with maps at the layer's resolution.
- precision: the difference of maps in bfloat16 from those in float32.

The pictures are from Fieldguide: `--distinct` of them are painted as PNG once and hard-linked to any number.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks.clock import in_child, quartiles, surroundings
from benchmarks.kills import ROOT, paint

MODELS = {"cnn": "fieldguide/cnn", "resnet50": "timm/resnet50?pretrained=false"}
BATCH = 8
PARTS = ("speed", "memory", "size", "ask", "precision")


def pictures(work: Path, count: int, distinct: int) -> Path:
    """A folder of `count` files, hard links to `distinct` painted ones."""
    painted = sorted(paint(work / f"painted-{distinct}", distinct).rglob("*.png"))
    folder = work / f"pictures-{count}-of-{distinct}"
    if len(list(folder.rglob("*.png"))) == count:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    for index in range(count):
        source = painted[index % len(painted)]
        file = folder / source.parent.name / f"{index:07d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, file)
    return folder


def explained(data: Path, out: Path, model: str, threads: int, batch: int, readers: int, **question: Any) -> Any:
    """Time one run into an empty folder; the model is loaded before the clock starts."""
    from finercam.models import load_model
    from finercam.run import explain_dataset

    shutil.rmtree(out, ignore_errors=True)
    loaded = load_model(MODELS[model])
    begun = time.perf_counter()
    outcome = explain_dataset(
        data, loaded, out, threads=threads, batch=batch, readers=readers, model_string=MODELS[model], **question
    )
    return time.perf_counter() - begun, outcome


def inferred(data: Path, model: str, threads: int, batch: int, readers: int) -> float:
    """Seconds of a plain loop over the same files, threads and batches that computes logits and their softmax."""
    from finercam.data.open import open_source
    from finercam.models import load_model
    from finercam.run.lists import Entry
    from finercam.run.pictures import read_ahead

    loaded = load_model(MODELS[model])
    torch.set_num_threads(threads)
    begun = time.perf_counter()
    source = open_source(data)
    entries = (Entry(position, one.path, one.label) for position, one in enumerate(source.entries()))
    waiting: list[torch.Tensor] = []
    with torch.no_grad():
        for read in read_ahead(source, loaded.preprocess, entries, readers, 2 * batch):
            assert read.tensor is not None
            waiting.append(read.tensor)
            if len(waiting) == batch:
                loaded.model(torch.stack(waiting)).softmax(1).topk(5)
                waiting = []
        if waiting:
            loaded.model(torch.stack(waiting)).softmax(1).topk(5)
    return time.perf_counter() - begun


def speed(work: Path, models: list[str], count: int, distinct: int, rounds: int, threads: int, readers: int) -> Any:
    data, found = pictures(work, count, distinct), {}
    for model in models:
        works: list[Callable[[], float]] = [
            lambda m=model: inferred(data, m, threads, BATCH, readers),
            lambda m=model: explained(data, work / "speed", m, threads, BATCH, readers)[0],
        ]
        for one in works:  # warms up
            one()
        times: list[list[float]] = [[], []]
        clocks: list[list[float]] = [[], []]
        for turn in range(rounds):
            for at in (0, 1) if turn % 2 == 0 else (1, 0):
                clock = time.process_time()
                times[at].append(works[at]())
                clocks[at].append(time.process_time() - clock)
        ratios, processor = ([plain / run for plain, run in zip(*of, strict=True)] for of in (times, clocks))
        found[model] = {
            "images": count,
            "batch": BATCH,
            "plain_images_a_second": count / statistics.median(times[0]),
            "run_images_a_second": count / statistics.median(times[1]),
            "throughput_ratio": statistics.median(ratios),
            "quartiles": quartiles(ratios),
            "throughput_ratio_by_processor_time": statistics.median(processor),  # with loading the model
        }
    return found


def memory(work: Path, sizes: list[int], distinct: int, model: str) -> Any:
    """Measure each size in a separate process."""
    found = {}
    for count in sizes:
        pictures(work, count, distinct)
        found[count] = in_child(
            "benchmarks.run",
            "--child",
            str(count),
            "--distinct",
            str(distinct),
            "--work",
            str(work),
            "--models",
            model,
        )
    least = min(one["peak_bytes"] for one in found.values())
    return {"sizes": found, "largest_through_smallest": max(one["peak_bytes"] for one in found.values()) / least}


def child(work: Path, count: int, distinct: int, model: str) -> Any:
    data = pictures(work, count, distinct)
    seconds, outcome = explained(data, work / f"memory-{count}", model, 1, 8, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"images": sum(outcome.counts.values()), "peak_bytes": peak, "seconds": seconds}


def size(work: Path, models: list[str], count: int, distinct: int, threads: int, readers: int) -> Any:
    import pyarrow.parquet as pq

    data, found = pictures(work, count, distinct), {}
    for model in models:
        out = work / f"size-{model}"
        explained(data, out, model, threads, 8, readers)
        files = sorted((out / "rows").glob("*.parquet"))
        evidence = 0
        for file in files:
            shard = pq.ParquetFile(file).metadata
            for group in range(shard.num_row_groups):
                columns = [shard.row_group(group).column(c) for c in range(shard.num_columns)]
                evidence += sum(c.total_compressed_size for c in columns if c.path_in_schema.startswith("evidence"))
        whole = sum(file.stat().st_size for file in files)
        found[model] = {"images": count, "bytes_per_1000": 1000 * whole / count, "evidence_share": evidence / whole}
    return found


def ask(work: Path, count: int, distinct: int, threads: int, readers: int, model: str) -> Any:
    """Run, unless there is a finished run of that size."""
    from finercam import open_run

    data, out = pictures(work, count, distinct), work / f"ask-{model}-{count}"
    try:
        finished = open_run(out).finished
    except ValueError:
        finished = False
    if not finished:
        explained(data, out, model, threads, 8, readers)
    torch.set_num_threads(threads)
    times = []
    for gamma in (0.3, 0.9, 1.2):
        begun = time.perf_counter()
        answered = sum(len(part.answer.signed) for part in open_run(out).ask(gamma=gamma))
        times.append(time.perf_counter() - begun)
        assert answered == count
    return {
        "images": count,
        "model": model,
        "seconds": times,
        "grid": list(next(iter(open_run(out))).signed.shape[1:]),
    }


def precision(work: Path, models: list[str], count: int, distinct: int, threads: int, readers: int) -> Any:
    from finercam import open_run

    data, found = pictures(work, count, distinct), {}
    for model in models:
        maps = []
        for kind in ("float32", "bfloat16"):
            # Both explain the same classes, because predictions of close calls may differ.
            explained(
                data, work / f"precision-{kind}", model, threads, 8, readers, precision=kind, target=0, against=[1]
            )
            parts = list(open_run(work / f"precision-{kind}").parts())
            maps.append(torch.cat([part.answer.signed_maps.flatten(1) for part in parts]))
        exact, rough = maps
        cosine = torch.nn.functional.cosine_similarity(exact, rough)
        found[model] = {
            "images": count,
            "cosine_least": float(cosine.min()),
            "cosine_mean": float(cosine.mean()),
            "largest_difference_of_peak": float((exact - rough).abs().max()),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--images", type=int, default=None)
    parser.add_argument("--sizes", default="1000,20000")
    parser.add_argument("--distinct", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--readers", type=int, default=1)
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "bench" / "run")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--child", type=int, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    models, parts = given.models.split(","), given.only.split(",")
    if given.child is not None:
        print(json.dumps(child(given.work, given.child, given.distinct, models[0])))
        return
    common = (given.distinct,)
    found: dict[str, Any] = {"surroundings": surroundings("cpu", given.threads)}
    if "speed" in parts:
        found["speed"] = speed(
            given.work, models, given.images or 512, *common, given.rounds, given.threads, given.readers
        )
    if "memory" in parts:
        found["memory"] = memory(given.work, [int(n) for n in given.sizes.split(",")], *common, models[0])
    if "size" in parts:
        found["size"] = size(given.work, models, given.images or 1000, *common, given.threads, given.readers)
    if "ask" in parts:
        found["ask"] = ask(given.work, given.images or 20000, *common, given.threads, given.readers, models[0])
    if "precision" in parts:
        found["precision"] = precision(given.work, models, given.images or 200, *common, given.threads, given.readers)
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
