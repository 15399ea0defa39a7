"""What became of the images of a run: counted, and written as `summary.json`."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from dataclasses import dataclass

import numpy as np

from finercam.run.lists import ImageList
from finercam.run.rows import FINE, read_shard
from finercam.run.store import Store

__all__ = ["Outcome", "read_outcome", "write_summary"]

SUMMARY = "summary.json"


@dataclass(frozen=True)
class Outcome:
    """How many images had each status, the first of each that failed, and what else is worth knowing."""

    counts: dict[str, int]
    examples: dict[str, tuple[str, str]]
    same_content: int
    unknown_labels: int
    halved: int
    explained_now: int

    @property
    def failed(self) -> int:
        return sum(count for status, count in self.counts.items() if status not in FINE)


def read_outcome(store: Store, listed: ImageList, explained_now: int) -> Outcome:
    """Count the rows of a finished run, a shard at a time."""
    counts: Counter[str] = Counter()
    examples: dict[str, tuple[str, str]] = {}
    marks, unknown, halved = array("Q"), 0, 0
    for number in range(listed.shards):
        shard = read_shard(store, number, ("path", "status", "error", "content", "label", "label_id"))
        halved += shard.halved
        for row in shard.table.to_pylist():
            counts[row["status"]] += 1
            if row["status"] not in FINE:
                examples.setdefault(row["status"], (row["path"], row["error"] or ""))
            unknown += row["label"] is not None and row["label_id"] is None
            if row["content"] is not None and row["status"] != "duplicate":
                marks.append(int(row["content"][:16], 16))
    same = len(marks) - len(np.unique(np.frombuffer(marks, np.uint64))) if marks else 0
    return Outcome(dict(counts), examples, same, unknown, halved, explained_now)


def write_summary(store: Store, outcome: Outcome) -> None:
    content = {
        "images": sum(outcome.counts.values()),
        "statuses": outcome.counts,
        "examples": {status: {"path": path, "error": error} for status, (path, error) in outcome.examples.items()},
        "same_content_as_another": outcome.same_content,
        "labels_unknown_to_the_model": outcome.unknown_labels,
        "batches_halved": outcome.halved,
    }
    store.write(SUMMARY, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())
