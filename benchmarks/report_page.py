"""The time of the live report for a frame while gamma is dragged, in headless Chromium.

    python -m benchmarks.report_page [--size 448] [--width 1440] [--frames 240]

Needs playwright and a Chromium. It uses a random classifier with 7 to 14 places a side, because the work of the page depends on
the sizes and not on the weights. "script" is the page's time for one answer (the map, nine small ones, words);
"task" is the processor time of all of a frame's work on the main thread, which other programs do not lengthen; "interval" is the time from one animation frame to the next.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from pathlib import Path

import torch
from torch import nn

from finercam import FinerCAM
from finercam.report import write_report

DRAG = """
async (frames) => {
  const slider = document.getElementById("gamma")
  const intervals = []
  let last = performance.now()
  for (let i = 0; i < frames; i++) {
    slider.value = 1 + Math.sin(i / 20)
    slider.dispatchEvent(new Event("input"))
    await new Promise((done) => requestAnimationFrame(done))
    const now = performance.now()
    intervals.push(now - last)
    last = now
  }
  return [window.finercam.times().slice(-frames), intervals.slice(10)]
}
"""


def page(folder: Path, size: int) -> Path:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 32, stride=32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 50)]
    explain = FinerCAM(nn.Sequential(*layers).eval(), layer="1", keep=10)
    return write_report(explain(torch.rand(1, 3, size, size)), folder / "report.html")


def main() -> None:
    from playwright.sync_api import sync_playwright

    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--size", type=int, default=448)
    ask.add_argument("--width", type=int, default=1440)
    ask.add_argument("--frames", type=int, default=240)
    options = ask.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = page(Path(folder), options.size)
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        for mode in ("overlay", "signed", "contour"):
            tab = browser.new_page(viewport={"width": options.width, "height": 900})
            tab.goto(f"{file.as_uri()}#/1?v={mode}")
            devtools = tab.context.new_cdp_session(tab)
            devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
            tab.evaluate(DRAG, 60)
            before = _task(devtools)
            script, intervals = tab.evaluate(DRAG, options.frames)
            task = 1000 * (_task(devtools) - before) / options.frames
            print(
                f"{options.size} px, {mode}: script {_spread(script)}, interval {_spread(intervals)}, task {task:.1f} ms"
            )
            tab.close()
        browser.close()


def _task(devtools) -> float:
    return next(m["value"] for m in devtools.send("Performance.getMetrics")["metrics"] if m["name"] == "TaskDuration")


def _spread(times: list[float]) -> str:
    hundredths = statistics.quantiles(times, n=100)
    return f"median {statistics.median(times):.1f} / 95 % {hundredths[94]:.1f} ms"


if __name__ == "__main__":
    main()
