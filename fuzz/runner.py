"""Coverage-guided fuzzing by atheris in a separate process, for a limited time, from a seed."""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["main", "signature"]

REGRESSIONS = Path(__file__).parents[1] / "tests" / "regressions"
CHILD = "FINERCAM_FUZZ_CHILD"


def main(
    name: str, check: Callable[[bytes], None], seeds: Callable[[], dict[str, bytes]], instrument: Sequence[str]
) -> None:
    """Fuzz `check` from its seeds and regressions and write each kind of finding once. The exit status is 1 if
    there is a new finding."""
    parser = argparse.ArgumentParser(description=f"Fuzz {name} for a limited time.")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1, help="same seed, same run, as far as the clock allows")
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"), help="corpus and findings")
    options = parser.parse_args()
    findings, corpus = options.out / name / "findings", options.out / name / "corpus"
    if os.environ.get(CHILD):
        _fuzz(check, instrument, findings, corpus, options.seconds, options.seed)
    for folder in (findings, corpus):
        folder.mkdir(parents=True, exist_ok=True)
    for known, data in seeds().items():
        (corpus / f"seed-{known}").write_bytes(data)
    for file in sorted((REGRESSIONS / name).glob("*")):
        (corpus / f"known-{file.name}").write_bytes(file.read_bytes())
    before = set(findings.iterdir())
    done = subprocess.run([sys.executable, "-m", f"fuzz.{name}", *sys.argv[1:]], env=os.environ | {CHILD: "1"})
    new = sorted(set(findings.iterdir()) - before)
    print(f"{name}: {len(new)} new findings in {findings}, {len(list(corpus.iterdir()))} inputs in the corpus")
    sys.exit(1 if new or done.returncode else 0)


def signature(error: BaseException) -> str:
    """The kind of a finding: the type of the error and the last line of finercam in its traceback."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if "finercam" in frame.filename]
    last = own[-1] if own else traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}-{Path(last.filename).stem}-{last.name}-{last.lineno}"


def _fuzz(
    check: Callable[[bytes], None],
    instrument: Sequence[str],
    findings: Path,
    corpus: Path,
    seconds: int,
    seed: int,
) -> None:
    import atheris

    with atheris.instrument_imports(include=list(instrument)):
        importlib.import_module("finercam.explainer")
        check(b"\0")  # the first call imports further modules

    def one(data: bytes) -> None:
        try:
            check(data)
        except Exception as error:
            kind = findings / signature(error)
            if not kind.exists():
                kind.write_bytes(data)
                print(f"FOUND {kind.name}: {str(error)[:200]!r}", flush=True)

    limits = [f"-max_total_time={seconds}", f"-seed={seed}", "-timeout=20", "-rss_limit_mb=4096", "-max_len=4096"]
    quiet = ["-verbosity=1", "-print_final_stats=1", f"-artifact_prefix={findings}/died-"]
    atheris.Setup([sys.argv[0], *limits, *quiet, str(corpus)], one)
    atheris.Fuzz()
