"""Small models whose answers are known, for every test, and the skips that are expected."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest_plugins = ["pytester"]

EXPECTED_SKIPS = (
    "the bird classifier is not on this machine",
    "../shared/data/.* is not there",  # photographs and a model that are not part of the project
    "no GPU on this machine",
    "got empty parameter set",  # no regression of that kind was found yet
    "a tower without attention",
    "timm itself rounds a side to 0 px here",
    "the peer sets ablated channels to -1e7",
    "is not installed; make integrations",  # libraries that are too heavy for every run of CI
    "no onnxruntime-web",  # neither in the cache nor to be had from the npm registry
    "timed out during startup",  # Ray's own processes, on a busy machine
)
"""Reasons (regular expressions) for which a test may be skipped in CI. With STRICT_SKIPS=1, as `make test` sets it,
any other skip fails the session; EXPECTED_SKIPS adds one more reason."""


def unexpected(reasons: list[str], expected: tuple[str, ...] = EXPECTED_SKIPS) -> list[str]:
    """The reasons that no expected one matches."""
    return [reason for reason in reasons if not any(re.search(known, reason) for known in expected)]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Comparisons with another library and tests of the bird classifier are slow: the imports alone take seconds."""
    for item in items:
        if item.get_closest_marker("peers") or item.get_closest_marker("birds"):
            item.add_marker("slow")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if os.environ.get("STRICT_SKIPS") != "1" or hasattr(session.config, "workerinput"):
        return
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    reasons = [f"{report.nodeid}: {report.longrepr[2]}" for report in reporter.stats.get("skipped", [])]
    added = os.environ.get("EXPECTED_SKIPS")
    found = unexpected(reasons, EXPECTED_SKIPS + ((added,) if added else ()))
    for reason in found:
        reporter.write_line(f"unexpected skip: {reason}", red=True)
    if found and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def seeded(model: nn.Module, seed: int = 0) -> nn.Module:
    """Fill parameters and running statistics from a generator of their own; the global one stays untouched."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.5 if parameter.ndim == 1 else (2 / parameter[0].numel()) ** 0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.2)
            if name.endswith("running_var"):
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return model.eval()


class Gap(nn.Module):
    """Features, their mean, a linear head: the gradient of class k is its weight row over the number of places."""

    def __init__(self, classes: int = 5, channels: int = 6, stride: int = 2) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, channels, 3, stride=stride, padding=1), nn.ReLU())
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean(dim=(2, 3)))


class Cnn(nn.Module):
    """Two stages, batch norm, dropout and in-place ReLUs: the tail after `stage1` is not linear."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6))
        self.relu = nn.ReLU(inplace=True)
        self.stage2 = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.stage2(self.relu(self.stage1(x)))
        return self.head(self.drop(maps.mean(dim=(2, 3))))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, 2, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class Vit(nn.Module):
    """Patches of 4 pixels, a CLS token that is read out, two blocks."""

    def __init__(self, classes: int = 5, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, 4, stride=4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), patches], dim=1)
        return self.head(self.blocks(tokens)[:, 0])


@pytest.fixture(scope="session")
def toys() -> Any:
    """Factories of seeded models: `toys.gap(...)`, `toys.cnn(...)`, `toys.vit(...)`, and `toys.seeded` for others."""

    def factory(kind: type[nn.Module]) -> Callable[..., nn.Module]:
        return lambda seed=0, **options: seeded(kind(**options), seed)

    return SimpleNamespace(gap=factory(Gap), cnn=factory(Cnn), vit=factory(Vit), seeded=seeded)


@pytest.fixture(scope="session")
def pictures() -> Callable[..., Tensor]:
    """Reproducible images: `pictures(4, size=16)` gives `(4, 3, 16, 16)`."""

    def make(count: int = 4, size: int | tuple[int, int] = 16, seed: int = 0, dtype: torch.dtype = torch.float32):
        height, width = (size, size) if isinstance(size, int) else size
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(count, 3, height, width, generator=generator).to(dtype)

    return make


@pytest.fixture(scope="session")
def run_page() -> Callable[..., dict[str, Any]]:
    """`run_page("scale.md", images=...)` runs a page's Python from top to bottom in one namespace and returns that.

    `replace` maps text of the page to what stands in for it, such as `/data` to a folder with small data sets. A
    failure names the page's own line.
    """

    def run(page: str, replace: dict[str, str] | None = None, **given: Any) -> dict[str, Any]:
        path = Path(__file__).parents[1] / "docs" / page
        text = path.read_text(encoding="utf-8")
        names: dict[str, Any] = {"__name__": page, **given}
        for found in re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            block = "\n" * text[: found.start(1)].count("\n") + found[1]
            for written, stand_in in (replace or {}).items():
                assert written in text, f"{page} no longer has {written!r}"
                block = block.replace(written, stand_in)
            exec(compile(block, str(path), "exec"), names)
        return names

    return run
