"""Run another library's own tests against finercam's drop-in for it: `python -m benchmarks.peer_suites grad-cam SOURCE`.

SOURCE is the unpacked source package (`pip download grad-cam==1.5.7 --no-deps --no-binary :all:`), or that archive. Its
tests are copied to a temporary folder, where the import of the library is replaced by the drop-in's and nothing else is
changed. A plugin stands in for what must be downloaded: networks with random weights, and a drawn photo. With `--peer`
the library itself runs the same tests beside it. Prints a table, and with `--out` writes it test by test.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
PLUGIN = "benchmarks.peer_plugin"


@dataclass(frozen=True)
class Peer:
    """A library: its module, the drop-in's, and for each test that cannot pass the reason (by a part of its id)."""

    module: str
    drop_in: str
    cannot: dict[str, str]


PEERS = {
    "grad-cam": Peer(
        "pytorch_grad_cam",
        "finercam.compat.pytorch_grad_cam",
        {
            "test_finercam_htcore_is_single_underscore": "reads the library's source text for the name of a field "
            "of its support for Habana accelerators",
        },
    ),
}
Results = dict[str, tuple[str, str]]
"""For each test its outcome ("passed", "failed", "skipped") and the first line of why."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("source", type=Path, help="the unpacked source package, or its .tar.gz")
    parser.add_argument("-k", dest="only", default="", help="run the tests that pytest's -k selects")
    parser.add_argument("--peer", dest="beside", action="store_true", help="also run the library itself")
    parser.add_argument("--out", type=Path, help="write the table test by test here")
    given = parser.parse_args()
    peer = PEERS[given.peer]
    with tempfile.TemporaryDirectory() as folder:
        source = unpacked(given.source, Path(folder))
        ours = run(source, peer, Path(folder) / "ours", given.only, replaced=True)
        theirs = run(source, peer, Path(folder) / "theirs", given.only, replaced=False) if given.beside else {}
    if given.out:
        given.out.write_text(listing(ours, theirs, peer), encoding="utf-8")
    print(summary(ours, theirs, peer))
    sys.exit(any(outcome != "passed" and not reason(test, peer) for test, (outcome, _) in ours.items()))


def unpacked(source: Path, folder: Path) -> Path:
    """The folder with `tests/`, of a source package or its archive."""
    if source.is_dir():
        return source
    with tarfile.open(source) as archive:
        archive.extractall(folder / "source", filter="data")
    return next((folder / "source").iterdir())


def run(source: Path, peer: Peer, folder: Path, only: str, replaced: bool) -> Results:
    """The outcome of each test of the library, with its import replaced or as it is."""
    (folder / "tests").mkdir(parents=True)
    for test in sorted((source / "tests").rglob("*.py")):
        text = test.read_text(encoding="utf-8")
        text = re.sub(rf"\b{peer.module}\b", peer.drop_in, text) if replaced else text
        if replaced:  # `import a.b.c` binds a, where the tests go on with the library's name
            text = text.replace(
                f"import {peer.drop_in}\n", f"from {peer.drop_in.rpartition('.')[0]} import {peer.module}\n"
            )
            text = text.replace(f"{peer.drop_in}.__file__", f"{peer.module}.__file__")
        copy = folder / "tests" / test.relative_to(source / "tests")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text, encoding="utf-8")
    report = folder / "report.xml"
    words = ["-m", "pytest", "-q", "tests", "-p", PLUGIN, "-p", "no:cacheprovider", f"--junitxml={report}"]
    path = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    words += ["-k", only] if only else []
    subprocess.run([sys.executable, *words], cwd=folder, env={**os.environ, "PYTHONPATH": path}, check=False)
    return outcomes(report)


def outcomes(report: Path) -> Results:
    """What pytest's report says of each test."""
    found: Results = {}
    for case in ElementTree.parse(report).iter("testcase"):
        kind, why = "passed", ""
        for tag in ("failure", "error", "skipped"):
            node = case.find(tag)
            if node is not None:
                kind, why = "skipped" if tag == "skipped" else "failed", (node.get("message") or "").split("\n")[0]
        found[f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"] = kind, why
    return found


def reason(test: str, peer: Peer) -> str:
    """Why a test cannot pass, or nothing."""
    return next((why for part, why in peer.cannot.items() if part in test), "")


def summary(ours: Results, theirs: Results, peer: Peer) -> str:
    """A Markdown table by test function, and the tests that did not pass."""
    counts: dict[str, Counter[str]] = {}
    for test, (outcome, _) in ours.items():
        counts.setdefault(test.partition("[")[0], Counter()).update(["all", outcome])
    beside = Counter(test.partition("[")[0] for test, (outcome, _) in theirs.items() if outcome == "passed")
    lines = ["| test | cases | passed | passed with the library itself |", "|---|---|---|---|"]
    for name, count in counts.items():
        lines.append(f"| `{name}` | {count['all']} | {count['passed']} | {beside[name] if theirs else ''} |")
    passed = sum(outcome == "passed" for outcome, _ in ours.values())
    lines += ["", f"{passed} of {len(ours)} passed."]
    for test, (outcome, why) in ours.items():
        if outcome != "passed":
            lines.append(f"- `{test}` {outcome}: {reason(test, peer) or why}")
    return "\n".join(lines)


def listing(ours: Results, theirs: Results, peer: Peer) -> str:
    """A Markdown table, a test a row."""
    lines = ["| test | drop-in | library itself | why |", "|---|---|---|---|"]
    for test, (outcome, why) in ours.items():
        cell = "" if outcome == "passed" else (reason(test, peer) or why).replace("|", "/")
        lines.append(f"| `{test}` | {outcome} | {theirs.get(test, ('', ''))[0]} | {cell} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
