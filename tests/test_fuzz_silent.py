"""A slice of `python -m fuzz.silent`: random models and questions against the slow reference, and the guest as it was."""

from __future__ import annotations

import pytest
import torch
from fuzz.silent import hunt


@pytest.mark.filterwarnings("ignore")
def test_no_case_differs_from_the_reference_or_changes_its_model() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        results, _ = hunt(70, seed=1)
    finally:
        torch.set_num_threads(threads)
    found = [
        f"case {number} {result.kind} {result.method}: {f}" for number, result in results for f in result.findings
    ]
    assert not found
    assert sum(result.compared for _, result in results) > 150
