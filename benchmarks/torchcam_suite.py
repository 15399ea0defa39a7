"""torch-cam's own tests, run against the drop-in: `python benchmarks/torchcam_suite.py CHECKOUT [TABLE.md]`.

CHECKOUT is a clone of torch-cam's repository, whose tests are not in its package. Its `torchcam.methods` and
`torchcam.utils` are replaced by ours; its metrics stay and are given our extractors. Every test that does not pass needs
a reason in `REASONS`, so that the command fails on a new one.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from finercam.compat.torchcam import methods, utils
from finercam.compat.torchcam.methods import activation, core, gradient

FILES = ("core", "activation", "gradient", "transformer")
TESTS = [*(f"tests/test_methods_{name}.py" for name in FILES), "tests/test_metrics.py", "tests/test_utils.py"]
PRIVATE = "reads or replaces torch-cam's private attributes and functions"
OVERLAY = "torch-cam squares an 8-bit mask in 8 bits, so that 255 becomes 1 and the most lit place is drawn as empty"
REASONS = {
    "legrad": "refused: torch-cam's LeGrad explains each block's own scores, `FinerCAM(model, 'legrad')` the model's logits",
    "preserves_nan_alpha": "an opacity of NaN is refused",
    "preserves_raw_band_modes": f"a palette or HSV picture becomes RGB first; {OVERLAY}",
    "overlay_mask": OVERLAY,
    "output_target_validation": "every extractor takes targets here; then private functions",
    "rejects_invalid_configuration": "any extractor can be the base; gamma is refused in other words",
    "rejects_invalid_scores": "refused with one kind of error, a ValueError, in other words",
    "cam_repr": "the base class has another name",
    "eval_mode|precheck|restores_state|automatic_references_cap": PRIVATE,
    "lifecycle_repr": "counts two hooks on a layer; here one hook does both",
    "accumulate_hook|restores_input_hook": PRIVATE,
}
"""Why a test that matches the name (a regular expression) does not pass."""


class Outcomes:
    """What became of each test, by its function."""

    def __init__(self) -> None:
        self.of: dict[str, Counter[str]] = defaultdict(Counter)
        self.unknown: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        file, _, name = report.nodeid.partition("::")
        test = f"{Path(file).stem.removeprefix('test_')}: {name.partition('[')[0]}"
        reason = next((why for pattern, why in REASONS.items() if re.search(pattern, name)), None)
        if report.skipped:
            self.of[test]["skipped"] += 1
        elif report.failed:
            self.of[test]["failed"] += 1
            if reason is None:
                self.unknown.append(f"{name}: {str(report.longrepr).strip().splitlines()[-1]}")
        else:
            self.of[test]["passed"] += 1

    def table(self) -> str:
        lines = ["| test of torch-cam | passed | if not, why |", "|---|---|---|"]
        for test, found in self.of.items():
            name = test.partition(": ")[2]
            why = next((why for pattern, why in REASONS.items() if re.search(pattern, name)), "")
            run = found["passed"] + found["failed"]
            lines.append(
                f"| {test.replace('_', chr(92) + '_')} | {found['passed']} of {run} | {why if found['failed'] else ''} |"
            )
        total = sum((found for found in self.of.values()), Counter())
        lines.append(f"| **all** | **{total['passed']} of {total['passed'] + total['failed']}** | |")
        return "\n".join(lines)


def replaced() -> None:
    """Put our modules in the place of torch-cam's; its metrics are imported first and stay."""
    package = importlib.import_module("torchcam")
    for kept in ("metrics", "explain"):
        importlib.import_module(f"torchcam.{kept}")
    core._CAM = core.Extractor  # type: ignore[attr-defined]
    ours = {"methods": methods, "utils": utils}
    ours |= {"methods.core": core, "methods.activation": activation, "methods.gradient": gradient}
    for name, module in ours.items():
        sys.modules[f"torchcam.{name}"] = module
    package.methods, package.utils = methods, utils


def main(checkout: str, table: str | None = None) -> int:
    out = None if table is None else Path(table).resolve()
    os.chdir(checkout)
    replaced()
    outcomes = Outcomes()
    pytest.main(["-q", "-p", "no:cacheprovider", "-o", "addopts=", "--tb=line", *TESTS], plugins=[outcomes])
    print(outcomes.table())
    if out is not None:
        out.write_text(outcomes.table() + "\n", encoding="utf-8")
    for one in outcomes.unknown:
        print("no reason is known for", one)
    return int(bool(outcomes.unknown))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
