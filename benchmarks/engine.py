"""The cost of an explanation: time relative to a forward pass and the peers, peak memory, re-asking and import.

    python -m benchmarks.engine [--quick] [--only times,memory,…] [--threads 2] [--device cpu] [--out FILE.json]
    python -m benchmarks.engine --only compiled --models resnet50,vit_b_16 --threads 1
    python -m benchmarks.engine --only gpu --out out/bench/gpu.json     # on an accelerator; --device cpu tries it out

All variants run interleaved in one process. A ratio is the median over the rounds of a variant's time divided by the
forward pass's time in the same round, with its quartiles. Wall time is reported together with processor time,
which depends less on other work on the machine. Peak memory is measured in a separate process for each variant.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from benchmarks import clock, subjects
from benchmarks.subjects import Subject
from rich.console import Console
from rich.table import Table

MODELS = ("resnet50", "vit_b_16", "dinov2_vitb14")
BATCHES = (1, 8)
PARTS = ("times", "sweep", "ask", "scorecam", "memory", "import")
MORE_PARTS = ("compiled", "small", "gpu")
GPU_BATCHES = (1, 32, 256)
SLOW = ("finercam", "pytorch-grad-cam")  # of Score-CAM: too long for a round to warm up
ONE_CONTRAST = (
    "forward",
    "finercam",
    "finercam, this question alone",
    "finercam, one reference",
    "finercam, each reference kept",
    "torch-cam",
    "pytorch-grad-cam",
)
Results = dict[str, Any]


def one_contrast(subject: Subject, images: torch.Tensor) -> dict[str, clock.Work]:
    """The plain forward pass, and one question for finercam and each of the peers."""
    return {
        "forward": subjects.forward(subject, images),
        "finercam": subjects.ours(subject, images),
        "finercam, this question alone": subjects.ours(subject, images, keep="question"),
        "finercam, one reference": subjects.ours(subject, images, preset="measured"),
        "finercam, each reference kept": subjects.ours(subject, images, keep="references"),
        "torch-cam": subjects.torch_cam(subject, images),
        "pytorch-grad-cam": subjects.grad_cam(subject, images),
    }


def sweeps(subject: Subject, images: torch.Tensor) -> dict[str, clock.Work]:
    """Three modes times eleven strengths for finercam and the peers."""
    return {
        "forward": subjects.forward(subject, images),
        "finercam": subjects.ours(subject, images),
        "finercam, 33 maps": subjects.our_sweep(subject, images),
        "torch-cam, 33 maps, graph kept": subjects.torch_cam_sweep(subject, images, retain=True),
        "torch-cam, 33 maps": subjects.torch_cam_sweep(subject, images),
        "pytorch-grad-cam, 33 maps": subjects.grad_cam_sweep(subject, images),
    }


def score_cams(subject: Subject, images: torch.Tensor) -> dict[str, clock.Work]:
    return {
        "forward": subjects.forward(subject, images),
        "finercam": subjects.our_score_cam(subject, images),
        "pytorch-grad-cam": subjects.peer_score_cam(subject, images),
    }


def times(device: str, models: tuple[str, ...], batches: tuple[int, ...], quick: bool) -> Results:
    return _each(one_contrast, device, models, batches, lambda batch: (15 if batch == 1 else 7) if not quick else 3)


def sweep(device: str, models: tuple[str, ...], batches: tuple[int, ...], quick: bool) -> Results:
    found = _each(
        sweeps, device, models, batches, lambda batch: (9 if batch == 1 else 3) if not quick else 2,
        slow={"torch-cam, 33 maps": 1, "pytorch-grad-cam, 33 maps": 1, "torch-cam, 33 maps, graph kept": 2},
    )  # fmt: skip
    for entry in found.values():
        ratio = {name: entry[name]["wall"]["seconds"] for name in entry}
        entry["33 maps / one contrast"] = ratio["finercam, 33 maps"] / ratio["finercam"]
    return found


def ask(device: str, models: tuple[str, ...], batches: tuple[int, ...], quick: bool) -> Results:
    """Milliseconds per image for another strength and for another reference, with the map at full resolution."""
    found: Results = {}
    for name in models:
        subject = subjects.build(name)
        for batch in batches:
            images = subject.images(batch)
            answer = subjects.ours(subject, images, keep="references")()
            rivals = [[row[1]] for row in answer.references.tolist()]
            works = {
                "forward": lambda: None,
                "another gamma": lambda answer=answer: answer.ask(gamma=0.9).maps,
                "another reference": lambda answer=answer, rivals=rivals: answer.ask(against=rivals).maps,
            }
            measured = clock.interleaved(works, 20 if quick else 100, device)
            found[f"{name}, batch {batch}"] = {
                what: {
                    c: 1e3 * sorted(measured[what][c])[len(measured[what][c]) // 2] / batch for c in ("wall", "cpu")
                }
                for what in works
                if what != "forward"
            }
    return found


def scorecam(device: str, quick: bool) -> Results:
    """Score-CAM on one picture. The maps are compared on the unit scale, with the peer's masks upsampled as ours."""
    subject = _on(subjects.build("mobilenet_v2"), device)
    images = subject.images(1).to(device)
    measured = clock.summary(
        clock.interleaved(score_cams(subject, images), 1 if quick else 3, device, slow=dict.fromkeys(SLOW, 3))
    )
    mine = subjects.on_unit_scale(subjects.our_score_cam(subject, images)().cpu())
    equal = subjects.peer_score_cam(subject, images, centred=True)()
    theirs = subjects.peer_score_cam(subject, images)()
    return {
        **measured,
        "speed": measured["pytorch-grad-cam"]["wall"]["seconds"] / measured["finercam"]["wall"]["seconds"],
        "largest difference, same upsampling": float((mine - equal).abs().max()),
        "largest difference, each its own": float((mine - theirs).abs().max()),
    }


def memory(device: str, models: tuple[str, ...], batch: int, threads: int) -> Results:
    """Transient bytes of each variant at one batch size, each in a separate process."""
    found: Results = {}
    for name in models:
        peaks = {
            v: clock.in_child("benchmarks.engine", "--peak", name, v, str(batch), device, threads=threads)["bytes"]
            for v in ONE_CONTRAST
        }
        found[f"{name}, batch {batch}"] = {
            v: {"megabytes": size / 2**20, "ratio": size / peaks["forward"]} for v, size in peaks.items()
        }
    return found


def peak(name: str, variant: str, batch: str, device: str) -> Results:
    subject = _on(subjects.build(name), device)
    work, warm_up = (one_contrast(subject, subject.images(n).to(device))[variant] for n in (int(batch), 1))
    return {"bytes": clock.peak_bytes(work, warm_up, device)}


def imports(quick: bool) -> Results:
    found = clock.import_times(("torch", "finercam"), 3 if quick else 9)
    return clock.summary(found, base="torch")


def compiled_contrast(subject: Subject, images: torch.Tensor) -> dict[str, clock.Work]:
    """The compiled forward pass, and one question by compiled parts; a warm-up round compiles both."""
    model = torch.compile(subject.model, dynamic=False)

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return model(images)

    return {
        "forward": forward,
        "finercam, compiled": subjects.ours(subject, images, preset="fast", compile=True),
        "finercam, eager": subjects.ours(subject, images, preset="fast", compile=False),
        "eager forward": subjects.forward(subject, images),
    }


def compiled(device: str, models: tuple[str, ...], batches: tuple[int, ...], quick: bool) -> Results:
    return _each(
        compiled_contrast, device, models, batches, lambda batch: (15 if batch == 1 else 7) if not quick else 3
    )


def small(device: str, quick: bool) -> Results:
    """Score-CAM on small pictures, beside pytorch-grad-cam: MobileNet-V2 at 32 to 128 px."""
    found: Results = {}
    for side in (48, 64, 96, 128):
        subject = _on(dataclasses.replace(subjects.build("mobilenet_v2"), side=side), device)
        works = score_cams(subject, subject.images(1).to(device))
        found[f"{side} px"] = clock.summary(
            clock.interleaved(works, 1 if quick else 5, device), base="pytorch-grad-cam"
        )
    return found


def gpu_works(subject: Subject, images: torch.Tensor) -> dict[str, clock.Work]:
    """What is measured on an accelerator: the forward pass, one contrast, `fine`, 33 maps, eager and compiled; the peers."""
    eager = one_contrast(subject, images)
    return {
        **{name: eager[name] for name in ("forward", "torch-cam", "pytorch-grad-cam")},
        "Captum LayerGradCam": subjects.captum(subject, images),
        "finercam": subjects.ours(subject, images, preset="fast", compile=False),
        "finercam, fine": subjects.fine(subject, images),
        "finercam, 33 maps": subjects.our_sweep(subject, images, compile=False),
        "forward, compiled": compiled_contrast(subject, images)["forward"],
        "finercam, compiled": subjects.ours(subject, images, preset="fast", compile=True),
    }


def gpu(device: str, models: tuple[str, ...], batches: tuple[int, ...], quick: bool) -> Results:
    """Times relative to the eager forward pass, in float32 and bfloat16, with images a second and transient memory."""
    found: Results = {}
    for name in models:
        for dtype in (torch.float32, torch.bfloat16):
            subject = _on(subjects.build(name), device)
            subject.model.to(dtype)
            for batch in batches:
                works = gpu_works(subject, subject.images(batch).to(device, dtype))
                entry = clock.summary(clock.interleaved(works, 3 if quick else 15, device))
                for variant, numbers in entry.items():
                    numbers["images_a_second"] = batch / numbers["wall"]["seconds"]
                    if device != "cpu":  # there each variant would need a process of its own
                        numbers["transient_bytes"] = clock.peak_bytes(works[variant], lambda: None, device)
                found[f"{name}, {dtype}, batch {batch}"] = entry
    return found


def _each(
    variants: Callable[[Subject, torch.Tensor], dict[str, clock.Work]],
    device: str,
    models: tuple[str, ...],
    batches: tuple[int, ...],
    rounds: Callable[[int], int],
    slow: Mapping[str, int] | None = None,
) -> Results:
    found: Results = {}
    for name in models:
        subject = _on(subjects.build(name), device)
        for batch in batches:
            works = variants(subject, subject.images(batch).to(device))
            found[f"{name}, batch {batch}"] = clock.summary(clock.interleaved(works, rounds(batch), device, slow))
    return found


def _on(subject: Subject, device: str) -> Subject:
    subject.model.to(device)
    return subject


def show(results: Results, console: Console) -> None:
    for part in ("times", "sweep", "compiled", "small", "gpu"):
        for heading, entry in results.get(part, {}).items():
            table = Table("variant", "s", "wall / forward", "quartiles", "cpu / forward", "rounds", title=heading)
            for name, numbers in entry.items():
                if isinstance(numbers, dict):
                    wall, cpu = numbers["wall"], numbers["cpu"]
                    spread = f"{wall['quartiles'][0]:.2f}–{wall['quartiles'][1]:.2f}"
                    table.add_row(
                        name, f"{wall['seconds']:.3f}", f"{wall['ratio']:.3f}", spread, f"{cpu['ratio']:.3f}",
                        str(numbers["rounds"]),
                    )  # fmt: skip
                else:
                    table.add_row(name, "", f"{numbers:.3f}", "", "", "")
            console.print(table)
    if "ask" in results:
        table = Table("re-ask", "another gamma, ms an image", "another reference, ms an image")
        for heading, entry in results["ask"].items():
            table.add_row(heading, *(f"{entry[q]['wall']:.2f} (cpu {entry[q]['cpu']:.2f})" for q in entry))
        console.print(table)
    if "scorecam" in results:
        entry = results["scorecam"]
        table = Table("Score-CAM, MobileNet-V2, batch 1", "s", "cpu s")
        for name in ("finercam", "pytorch-grad-cam"):
            table.add_row(name, f"{entry[name]['wall']['seconds']:.2f}", f"{entry[name]['cpu']['seconds']:.2f}")
        table.add_row("speed", f"{entry['speed']:.2f}x", "")
        table.add_row(
            "largest difference, same upsampling", f"{entry['largest difference, same upsampling']:.1e}", ""
        )
        console.print(table)
    for heading, entry in results.get("memory", {}).items():
        table = Table("variant", "transient MB", "/ forward", title=f"peak memory, {heading}")
        for name, numbers in entry.items():
            table.add_row(name, f"{numbers['megabytes']:.0f}", f"{numbers['ratio']:.2f}")
        console.print(table)
    if "import" in results:
        table = Table("import", "s", "/ torch", "quartiles")
        for name, numbers in results["import"].items():
            wall = numbers["wall"]
            spread = f"{wall['quartiles'][0]:.2f}–{wall['quartiles'][1]:.2f}"
            table.add_row(name, f"{wall['seconds']:.2f}", f"{wall['ratio']:.3f}", spread)
        console.print(table)


def main(arguments: list[str] | None = None) -> Results:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds, batch 1 for the peers' sweeps")
    parser.add_argument("--out", type=Path, help="write everything measured as JSON")
    parser.add_argument(
        "--only", default=",".join(PARTS), help=f"parts, by comma, of {', '.join(PARTS + MORE_PARTS)}"
    )
    parser.add_argument("--models", default=",".join(MODELS), help=f"by comma, of {', '.join(MODELS)}")
    parser.add_argument("--batches", help=f"batch sizes, by comma; {BATCHES}, or {GPU_BATCHES} of the part gpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default=None, help="cpu, or cuda; the part gpu takes cuda where there is one")
    parser.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)  # for child processes
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.peak:
        found = peak(*options.peak)
        print(json.dumps(found))
        return found

    quick, on_gpu = options.quick, "gpu" in options.only.split(",") and torch.cuda.is_available()
    device = options.device or ("cuda" if on_gpu else "cpu")
    models = tuple(options.models.split(","))
    batches = BATCHES if options.batches is None else tuple(int(b) for b in options.batches.split(","))
    parts: dict[str, Callable[[], Results]] = {
        "times": lambda: times(device, models, batches, quick),
        "sweep": lambda: sweep(device, models, batches[:1] if quick else batches, quick),
        "ask": lambda: ask(device, models, batches, quick),
        "scorecam": lambda: scorecam(device, quick),
        "memory": lambda: memory(device, tuple(m for m in models if m != "dinov2_vitb14"), 16, options.threads),
        "import": lambda: imports(quick),
        "compiled": lambda: compiled(device, models, batches, quick),
        "small": lambda: small(device, quick),
        "gpu": lambda: gpu(device, models, GPU_BATCHES if options.batches is None else batches, quick),
    }
    console = Console(width=110 if not sys.stdout.isatty() else None)
    results: Results = {"settings": vars(options) | {"out": str(options.out)}}
    results["surroundings"] = clock.surroundings(device, options.threads)
    for part in options.only.split(","):
        if part not in parts:
            parser.error(f"--only {part}: expected {', '.join(PARTS + MORE_PARTS)}")
        results[part] = parts[part]()
        show({part: results[part]}, console)
        if options.out:  # after each part, so that what has been measured is never lost
            options.out.parent.mkdir(parents=True, exist_ok=True)
            results["load_average_at_the_end"] = clock.surroundings(device, options.threads)["load_average"]
            options.out.write_text(json.dumps(results, indent=1) + "\n")
    return results


if __name__ == "__main__":
    main()
