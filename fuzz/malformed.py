"""Malformed files, configurations, calls and commands by the thousand, each under limits of time and memory.

    python -m fuzz.malformed --cases 10000 --seed 0     # a table; `--case N` repeats one case

Each case may give an answer or one `FinerCAMError` of one line. Findings are every other exception, more than 10 seconds,
more than 2 GB, a try to reach the network, a program or pickled code that is run, a file read outside the case's own
folders, and a process that dies. Cases run in child processes; one that hangs or dies is replaced.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finercam.errors import FinerCAMError
from fuzz import seeds
from fuzz.rules import one_line
from fuzz.runner import signature

__all__ = ["KINDS", "Ended", "hunt", "run_case"]

SECONDS, MEMORY = 10, 2 << 30
FORBIDDEN = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg")
FORBIDDEN += ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "pty.spawn")
FORBIDDEN += ("pickle.find_class", "webbrowser.open", "urllib.Request")
"""Events of the interpreter that no case may cause."""
CANARY = "finercam-canary"
"""Part of the name of a folder that some inputs point to, and that nothing may open."""


@dataclass
class Ended:
    """How a case ended."""

    kind: str
    refused: str = ""
    seconds: float = 0.0
    grown: int = 0
    findings: list[str] = field(default_factory=list)


class TooLong(BaseException):
    """Raised by the alarm; not an Exception, so that nothing takes it for an error of its own."""


# --- what is drawn: each gives a call that reads it


def mutated(draw: random.Random, data: bytes) -> bytes:
    """Some bytes changed, a piece cut out, doubled or put elsewhere, the end cut off."""
    content = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 4, 12])):
        at, length = draw.randrange(len(content) + 1), draw.choice([1, 2, 4, 16, 64])
        piece = bytes(content[at : at + length])
        match draw.choice(["set", "flip", "cut", "double", "insert", "end", "number"]):
            case "set":
                content[at : at + length] = draw.choice([b"\0", b"\xff", b"\x7f", b"\x80"]) * len(piece)
            case "flip":
                content[at : at + 1] = bytes([piece[0] ^ (1 << draw.randrange(8))]) if piece else b""
            case "cut":
                del content[at : at + length]
            case "double":
                content[at:at] = piece * draw.choice([1, 1, 50])
            case "insert":
                content[at:at] = draw.randbytes(draw.randrange(9))
            case "number":
                content[at:at] = draw.choice([b"9" * 30, b"-1", b"1e999", b"nan", b"[" * 5000, b'"', b"\r\n,,"])
            case "end":
                del content[at:]
    return bytes(content)


VALUES: list[Any] = [None, True, False, 0, -1, 1, 7, 10**9, 10**30, -(10**9), 0.5, 1e308, float("nan"), float("inf")]
VALUES += ["", "x", "../../etc/passwd", "org/repo", "hf-hub:org/repo", "x" * 5000, "\n\x1b[2J", "nan", "💥", [], {}]
VALUES += [[[[[]]]], [1, 2, 3], ["a", 1, None], {"a": 1}, {"": {"": {}}}, [10**8] * 3, ["wren"] * 1000]


def changed_tree(draw: random.Random, tree: Any) -> Any:
    """A value like JSON's with some of its parts replaced, dropped, renamed or nested."""
    for _ in range(draw.choice([1, 1, 2, 3])):
        node = tree
        while True:
            keys: list[Any] = list(node) if isinstance(node, dict) else list(range(len(node)))
            inner = [key for key in keys if isinstance(node[key], dict | list) and node[key]]
            if not inner or draw.random() < 0.35:
                break
            node = node[draw.choice(inner)]
        if not keys:
            return tree
        key, how = draw.choice(keys), draw.choice(["replace"] * 4 + ["drop", "rename", "nest"])
        if how == "replace":
            node[key] = copy.deepcopy(draw.choice([*VALUES, f"/tmp/{CANARY}/x", f"local-dir:/tmp/{CANARY}"]))
        elif how == "nest":
            node[key] = [node[key]] * draw.choice([1, 3])
        elif how == "rename" and isinstance(node, dict):
            node[draw.choice(["", "x", "pretrained", "trust_remote_code", "auto_map", "_attn_implementation"])] = (
                node.pop(key)
            )
        else:
            del node[key]
    return tree


def _picture(draw: random.Random, _place: Path) -> Callable[[], Any]:
    from fuzz import images

    pictures = seeds.pictures()
    data = mutated(draw, pictures[draw.choice(sorted(pictures))])
    return lambda: images.check(data)


def _file(draw: random.Random, _place: Path) -> Callable[[], Any]:
    from fuzz import files

    texts = seeds.files()
    door = draw.choice(sorted(texts))
    if texts[door][:1] in (b"{", b"[") and draw.random() < 0.5:
        content = json.dumps(changed_tree(draw, json.loads(texts[door]))).encode()
    else:
        content = mutated(draw, texts[door])
    return lambda: files.check(files.named(door, content))


VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 32}
CNN = {"library": "builtin", "name": "cnn", "kwargs": {"num_classes": 2, "widths": [4, 4, 4, 8]}}
ARCHITECTURES: list[dict[str, Any]] = [
    CNN,
    {"library": "builtin", "name": "vit", "kwargs": {"num_classes": 2, "grid": 4}},
    {"library": "timm", "name": "resnet18", "kwargs": {"num_classes": 2}},
    {"library": "timm", "name": "vit_tiny_patch16_224", "kwargs": {"img_size": 32, "depth": 1}},
    {"library": "torchvision", "name": "mobilenet_v3_small", "kwargs": {"num_classes": 2}},
    {"library": "transformers", "name": "vit", "kwargs": VIT | {"patch_size": 16, "num_labels": 2}},
    {"library": "transformers", "name": "timm_wrapper", "kwargs": {"architecture": "resnet18"}},
    {"library": "transformers", "name": "upernet", "kwargs": {"backbone": "microsoft/resnet-50"}},
    {"library": "open_clip", "name": "ViT-B-32", "kwargs": {"vision_cfg": {"width": 16}}},
    {"library": "open_clip", "name": "coca_roberta-ViT-B-32", "kwargs": {}},
    {
        "library": "probed",
        "name": "x",
        "kwargs": {"backbone": CNN | {"pool": "avg"}, "dim": 8, "num_classes": 2, "bias": True},
    },
]


def _config(draw: random.Random, place: Path) -> Callable[[], Any]:
    """A model folder whose config.json and weights do not fit, or lead elsewhere."""
    from finercam.models import load_model
    from fuzz.folders import copied_run

    if draw.random() < 0.4:  # the weights fit before the change
        _, folder = copied_run(place)
        config, weights = (
            json.loads((folder / "config.json").read_text()),
            (folder / "model.safetensors").read_bytes(),
        )
    else:
        folder, config, weights = place, json.loads(seeds.files()["config"]), seeds.files()["safetensors"]
        config["architecture"] = json.loads(json.dumps(draw.choice(ARCHITECTURES)))
    (folder / "config.json").write_text(json.dumps(changed_tree(draw, config)))
    (folder / "model.safetensors").write_bytes(mutated(draw, weights) if draw.random() < 0.3 else weights)
    return lambda: load_model(str(folder))


def _run(draw: random.Random, place: Path) -> Callable[[], Any]:
    """A run's folder with one of its files changed: continued, or opened and asked."""
    from finercam.models import load_model
    from finercam.run import explain_dataset, open_run
    from fuzz.folders import copied_run

    out, model = copied_run(place)
    file = draw.choice(sorted(path for path in out.rglob("*") if path.is_file()))
    how = draw.choice(["bytes", "bytes", "tree", "tree", "gone", "empty", "folder", "other"])
    if how == "tree" and file.suffix == ".json":
        file.write_text(json.dumps(changed_tree(draw, json.loads(file.read_text()))))
    elif how in ("gone", "folder"):
        file.unlink()
        if how == "folder":
            file.mkdir()
    elif how == "other":
        file.write_bytes(draw.choice(sorted(path for path in out.rglob("*") if path.is_file())).read_bytes())
    else:
        file.write_bytes(b"" if how == "empty" else mutated(draw, file.read_bytes()))
    if draw.random() < 0.5:
        redo = draw.random() < 0.3
        return lambda: explain_dataset(
            place / "data", load_model(str(model)), out, shard=2, batch=2, threads=1, redo=redo
        )

    def ask() -> None:
        opened = open_run(out)
        str(opened)
        for part in opened.ask(gamma=draw.choice([0.0, 0.6, 1.3])):
            assert bool(part.answer.maps.isfinite().all())

    return ask


def _call(draw: random.Random, _place: Path) -> Callable[[], Any]:
    from fuzz import calls

    return calls.drawn(draw)


def _command(draw: random.Random, place: Path) -> Callable[[], Any]:
    from fuzz.folders import command

    return command(draw, place)


KINDS: dict[str, tuple[int, Callable[[random.Random, Path], Callable[[], Any]]]] = {
    "picture": (20, _picture),
    "file": (30, _file),
    "config": (15, _config),
    "run": (5, _run),
    "call": (26, _call),
    "command": (4, _command),
}
"""Share in per cent, and what draws a case."""


# --- running one


def run_case(seed: int, number: int) -> Ended:
    """Draw a case and run it in this process under the limits."""
    draw = random.Random(f"{seed}-{number}")
    kind = draw.choices(list(KINDS), [share for share, _ in KINDS.values()])[0]
    ended = Ended(kind)
    with tempfile.TemporaryDirectory(prefix="finercam-malformed-") as place:
        try:
            read = KINDS[kind][1](draw, Path(place))
            with _limited(ended):
                read()
        except FinerCAMError as error:
            ended.refused = str(error)
            try:
                one_line(error)
            except AssertionError as wrong:
                ended.findings.append(str(wrong))
        except TooLong as error:
            ended.findings.append(f"took longer than {SECONDS} s: {signature(error)}")
        except Exception as error:
            ended.findings.append(f"{signature(error)}: {str(error)[:200]!r}")
    if ended.grown > MEMORY:
        ended.findings.append(f"took {ended.grown >> 20} MiB")
    return ended


_watched: list[list[str]] = []


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if not _watched:
        return
    if event in FORBIDDEN:
        _watched[-1].append(f"{event} {str(args)[:120]}")
        raise PermissionError(f"{event} is forbidden")
    if event in ("open", "os.listdir", "os.scandir") and CANARY in str(args[0]):
        _watched[-1].append(f"opened {str(args[0])[:120]}")


@contextmanager
def _limited(ended: Ended) -> Iterator[None]:
    """While the block runs, the alarm is set and forbidden events are findings; its time and memory are measured."""
    before, begun = _memory("VmRSS"), time.monotonic()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    _watched.append(ended.findings)
    try:
        yield
    finally:
        _watched.pop()
        signal.setitimer(signal.ITIMER_REAL, 0)
        ended.seconds, ended.grown = time.monotonic() - begun, _memory("VmHWM") - before


def _memory(name: str) -> int:
    """Bytes of this process in /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {name}")


def _prepared() -> None:
    """In a child: the alarm, the limit of memory, and the watch on what is forbidden."""

    def ring(*_: Any) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, ring)
    limit = _memory("VmSize") + 2 * MEMORY  # addresses; what is used is measured
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    sys.addaudithook(_audit)


# --- running many


def _child(seed: int, numbers: range, pipe: Any) -> None:
    import torch

    torch.set_num_threads(1)
    _prepared()
    for number in numbers:
        pipe.send((number, None))
        pipe.send((number, run_case(seed, number)))
    pipe.close()


def hunt(cases: int, seed: int, each: int = 500) -> list[tuple[int, Ended]]:
    """Run the cases 0 to `cases` in child processes of at most `each` cases; prints findings as they come."""
    context, results, at = multiprocessing.get_context("fork"), list[tuple[int, Ended]](), 0
    while at < cases:
        mine, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(seed, range(at, min(cases, at + each)), theirs))
        child.start()
        theirs.close()
        while True:
            try:
                ended = (
                    mine.recv()[1] if mine.poll(6 * SECONDS) else _stopped(child, "hung and did not heed the alarm")
                )
            except EOFError:
                child.join()
                if child.exitcode == 0:
                    break
                ended = _stopped(child, f"died with status {child.exitcode}")
            if ended is None:
                continue
            results.append((at, ended))
            for finding in ended.findings:
                print(f"finding: --seed {seed} --case {at} ({ended.kind}): {finding}", flush=True)
            at += 1
            if not child.is_alive() and child.exitcode != 0:
                break
    return results


def _stopped(child: Any, why: str) -> Ended:
    child.kill()
    child.join()
    return Ended("died", findings=[why])


def _print_table(results: list[tuple[int, Ended]], took: float) -> None:
    groups: dict[str, list[Ended]] = defaultdict(list)
    for _, ended in results:
        groups[ended.kind].append(ended)
    print(
        f"{'kind':9} {'cases':>6} {'answered':>9} {'refused':>8} {'longest, s':>11} {'most, MiB':>10} {'findings':>9}"
    )
    for kind, of in sorted(groups.items()):
        refused, found = sum(bool(one.refused) for one in of), sum(bool(one.findings) for one in of)
        longest, most = max(one.seconds for one in of), max(one.grown for one in of) >> 20
        answered = len(of) - refused - found
        print(f"{kind:9} {len(of):6} {answered:9} {refused:8} {longest:11.2f} {most:10} {found:9}")
    found = sum(bool(ended.findings) for _, ended in results)
    print(f"{len(results)} cases, {found} with findings, {took:.0f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="repeat one case, in this process")
    given = parser.parse_args()
    import finercam.cli  # noqa: F401
    from finercam.models.architectures import build_architecture

    for architecture in ARCHITECTURES:  # so that no case waits for the import of a library
        with suppress(FinerCAMError):
            build_architecture(architecture)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="finercam-malformed-") as home:
        os.environ |= {"HF_HOME": home, "TORCH_HOME": home, "TMPDIR": home, "COLUMNS": "200"}
        tempfile.tempdir = home
        from fuzz.folders import make_run

        make_run(Path(home) / "base")
        if given.case is not None:
            _prepared()
            results = [(given.case, run_case(given.seed, given.case))]
            print(results[0][1])
        else:
            results = hunt(given.cases, given.seed)
    _print_table(results, time.monotonic() - begun)
    kinds = Counter(finding.split(":")[0] for _, ended in results for finding in ended.findings)
    for kind, count in kinds.most_common():
        print(f"{count:6}  {kind}")
    return int(bool(kinds))


if __name__ == "__main__":
    sys.exit(main())
