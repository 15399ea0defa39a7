"""The study behind docs/evaluation.md: which contrast, method and layer find the pixels in which two species differ.

    python -m benchmarks.study --out out/study [--count 300] [--only sweep …] [--write]

Every table is one or more calls of `finercam.evaluation.evaluate`, so it continues where it stopped. `--write` puts the tables into
docs/evaluation-appendix.md between their markers, and refreshes what docs/evaluation.md and docs/choosing.md quote of them.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from benchmarks import birds, photographs, quote

from finercam import metrics
from finercam.data.batches import loader
from finercam.data.fieldguide import SPECIES, Fieldguide, discriminative_parts
from finercam.evaluation import evaluate
from finercam.evaluation.summary import Line
from finercam.models import LoadedModel, load_model

MODELS = ["cnn", "resnet", "vit"]
SEED = 20_000
"""Seed that no built-in model was trained or tested on."""

ENERGY, POINTING, AP = "discriminative_energy", "discriminative_pointing", "discriminative_ap"
SHARED, BACKGROUND = "shared_energy", "background_energy"


class Study:
    """The folder of the results, and the number of pictures for each table."""

    def __init__(self, out: Path, count: int) -> None:
        self.out, self.count = out, count
        self.models: dict[str, LoadedModel] = {}

    def run(self, name: str, model: str, count: int | None = None, **options: object) -> list[Line]:
        """One evaluation on fresh Fieldguide pictures, under out/<name>-<model>."""
        if model not in self.models:
            self.models[model] = load_model(f"fieldguide/{model}")
        pictures = Fieldguide(count or self.count, seed=SEED)
        options = {"groups": ["contrastive"], "batch_size": 25} | options
        print(f"{name}-{model} …", file=sys.stderr, flush=True)
        return evaluate(pictures, self.models[model], self.out / f"{name}-{model}", **options)  # type: ignore[arg-type]


def main_table(study: Study) -> str:
    """Plain, the paper's contrast and the pair question, for the two methods of the claim, on three models."""
    rows = []
    for model in MODELS:
        lines = study.run("main", model, methods=["gradcam", "layercam"], contrasts=MAIN)
        rows += _block(lines, [("gradcam", "layercam"), ("plain", *MAIN)], model)
        rows += _chance(lines, model)
    return _table(("model", "method", "contrast", *HEAD), rows)


def methods_table(study: Study) -> str:
    """Every method, plain and with the pair question."""
    fast = ["gradcam", "gradcam++", "xgradcam", "hirescam", "layercam", "gradcam-elementwise", "eigengradcam"]
    slow = ["scorecam", "gscorecam", "ablationcam"]
    rows = []
    for model in MODELS:
        lines = study.run("methods", model, methods=fast, contrasts=["pair"])
        rows += _block(lines, [fast, ("plain", "pair")], model)
        lines = study.run("slow", model, count=min(60, study.count), methods=slow, contrasts=["pair"])
        rows += _block(lines, [slow, ("plain", "pair")], model)
    return _table(("model", "method", "contrast", *HEAD), rows)


def gamma_table(study: Study) -> str:
    """Discriminative energy over gamma, for one rival and for three."""
    gammas = (0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0)
    asks = {"the sibling": "rival:1:{}", "3 similar": "similar:3:{}", "3 predicted": "predicted:3:{}"}
    rows = []
    for model in MODELS:
        every = [text.format(g) for text in asks.values() for g in gammas]
        lines = study.run("gamma", model, methods=["gradcam"], contrasts=every)
        plain = _get(lines, "gradcam", "plain", ENERGY)
        for name, text in asks.items():
            found = [_get(lines, "gradcam", text.format(g), ENERGY) for g in gammas]
            rows.append([model, name, f"{plain.mean:.3f}", *_best([line.mean for line in found])])
    return _table(("model", "against", "γ = 0", *(f"{g:g}" for g in gammas)), rows)


def count_table(study: Study) -> str:
    """Discriminative energy over the number of references."""
    counts = (1, 2, 3, 5, 10)
    rows = []
    for model in MODELS:
        asks = [f"{s}:{t}:{g}" for s in ("similar", "predicted") for t in counts for g in (0.6, 1)]
        alls = [f"all:1:{g}:{w}" for g in (0.6, 1) for w in ("mean", "probability")]
        lines = study.run("count", model, methods=["gradcam"], contrasts=asks + alls)
        for s in ("similar", "predicted"):
            for g in (0.6, 1):
                found = [_get(lines, "gradcam", f"{s}:{t}:{g}", ENERGY).mean for t in counts]
                wide = [_get(lines, "gradcam", f"all:1:{g}:{w}", ENERGY).mean for w in ("mean", "probability")]
                rows.append([model, s, f"{g:g}", *_best(found + wide)])
    return _table(("model", "references", "γ", *(f"T = {t}" for t in counts), "all, mean", "all, probability"), rows)


def strategy_table(study: Study) -> str:
    """The choice of reference classes, at T = 1 and 3."""
    picks = ("similar", "predicted", "nearest", "rival", "random")
    rows = []
    for model in MODELS:
        asks = [f"{p}:{t}:1" for p in picks for t in (1, 3) if not (p == "rival" and t == 3)]
        lines = study.run("strategy", model, methods=["gradcam"], contrasts=asks)
        rows += _block(lines, [("gradcam",), ("plain", *asks)], model)
    return _table(("model", "method", "contrast", *HEAD), rows)


def weights_table(study: Study) -> str:
    """The weights of references."""
    kinds = ("mean", "probability", "orthogonal", "released")
    rows = []
    for model in MODELS:
        asks = [f"{p}:{t}:1:{w}" for p, t in (("similar", 3), ("predicted", 3), ("rival", 1)) for w in kinds]
        lines = study.run("weights", model, methods=["gradcam"], contrasts=asks)
        rows += _block(lines, [("gradcam",), asks], model)
    return _table(("model", "method", "contrast", *HEAD), rows)


def layers_table(study: Study) -> str:
    """Target layers and their fusion, for the pair question."""
    rows = []
    for model in MODELS:
        for text in LAYERS[model]:
            names = re.split(r"[+*]", text)
            options = {"layer": tuple(names), "fusion": "product" if "*" in text else "mean"}
            key = "layers-" + text.replace("*", "x")
            methods = ["gradcam", "layercam", "hirescam"]
            lines = study.run(key, model, methods=methods, contrasts=["pair"], **options)
            for method in methods:
                plain, pair = (_get(lines, method, ask, ENERGY) for ask in ("plain", "pair"))
                hit = _get(lines, method, "pair", POINTING)
                rows.append(
                    [
                        model,
                        text.replace("*", " × "),
                        method,
                        f"{plain.mean:.3f}",
                        f"{pair.mean:.3f}",
                        _ratio(pair),
                        f"{hit.mean:.2f}",
                    ]
                )
    head = (
        "model",
        "layers (+ mean, × product)",
        "method",
        "energy, plain",
        "energy, pair",
        "ratio",
        "pointing, pair",
    )
    return _table(head, rows)


def rd_table(study: Study) -> str:
    """Relative confidence drop as in the paper, for own and held-out rival, with the paper's numbers."""
    methods = ["gradcam", "layercam", "scorecam"]
    rows = []
    for model in MODELS:
        groups = ["rd", "deletion"]
        asks = ["paper", "similar:3:1", "pair"]
        lines = study.run("rd", model, count=min(100, study.count), methods=methods, contrasts=asks, groups=groups)
        for method in methods:
            for ask in ("plain", *asks):
                cells = [_mark(_get(lines, method, ask, name)) for name in RD]
                rows.append([model, method, ask, *cells])
        for control in ("uniform", "gaussian", "shuffled"):
            rows.append([model, "control", control, *(_mark(_get(lines, "control", control, name)) for name in RD)])
    rows += [[data, method, ask, *numbers, *[""] * (len(RD) - 3)] for data, method, ask, *numbers in PAPER]
    return _table(("model", "method", "contrast", *RD), rows)


def presence_table(study: Study) -> str:
    """Results by who has the deciding part: only the target, only the rival, or both in different forms."""
    import pyarrow.parquet as pq

    rows = []
    for model in MODELS:
        study.run("main", model, methods=["gradcam", "layercam"], contrasts=MAIN)
        parts = sorted((study.out / f"main-{model}" / "parts").glob("*.parquet"))
        found: dict[tuple[str, str], dict[int, dict]] = {}
        for row in (row for part in parts for row in pq.read_table(part).to_pylist()):
            if row["method"] == "gradcam" and row[ENERGY] == row[ENERGY]:
                found.setdefault((_kind(row["label"], row["rival"]), row["contrast"]), {})[row["index"]] = row
        for kind in KINDS:
            plain, pair = found.get((kind, "plain"), {}), found.get((kind, "pair"), {})
            both = [i for i in plain if i in pair]
            if len(both) < 5:
                continue
            a = torch.tensor([pair[i][ENERGY] for i in both])
            b = torch.tensor([plain[i][ENERGY] for i in both])
            ratio = metrics.bootstrap_ratio(a, b)
            hits = [sum(of[i][POINTING] for i in both) / len(both) for of in (plain, pair)]
            interval = f"{ratio.estimate:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
            rows.append(
                [
                    model,
                    kind,
                    str(len(both)),
                    f"{b.mean():.3f}",
                    f"{a.mean():.3f}",
                    interval,
                    *(f"{h:.2f}" for h in hits),
                ]
            )
    head = (
        "model",
        "the deciding part",
        "pictures",
        "energy, plain",
        "energy, pair",
        "ratio",
        "pointing, plain",
        "pair",
    )
    return _table(head, rows)


def heads_table(study: Study) -> str:
    """The paper's set-up: frozen features and a linear head, with more or less regularisation."""
    from sklearn.linear_model import LogisticRegression

    train, test = Fieldguide(4000, seed=SEED + 1), Fieldguide(1000, seed=SEED + 2)
    labels = [pictures.labels(range(len(pictures))) for pictures in (train, test)]
    asks = ["paper", "similar:3:1", "predicted:3:0.6", "pair"]
    rows = []
    for trained, backbone in (("species", load_model("fieldguide/cnn")), ("attributes", attribute_backbone(study))):
        pooled = [_pooled(backbone, pictures) for pictures in (train, test)]
        scale = pooled[0].std(0).clamp(min=1e-6)
        for strength in (0.01, 0.1, 1.0, 10.0, 100.0):
            fitted = LogisticRegression(C=strength, max_iter=2000).fit((pooled[0] / scale).numpy(), labels[0])
            model = copy.deepcopy(backbone.model)
            with torch.no_grad():
                model.head.weight.copy_(torch.from_numpy(fitted.coef_).float() / scale)
                model.head.bias.copy_(torch.from_numpy(fitted.intercept_).float())
            accuracy = fitted.score((pooled[1] / scale).numpy(), labels[1])
            study.models["refitted"] = dataclasses.replace(
                backbone, model=model, name=f"cnn on {trained}, head C={strength:g}"
            )
            lines = study.run(f"head-{trained}-{strength:g}", "refitted", methods=["gradcam"], contrasts=asks)
            cosine = torch.nn.functional.normalize(model.head.weight, dim=1)
            near = (cosine @ cosine.T).fill_diagonal_(-1).amax(1).mean()
            energies = [_get(lines, "gradcam", ask, ENERGY) for ask in ("plain", *asks)]
            numbers = [f"{strength:g}", f"{accuracy:.3f}", f"{near:.2f}", *(f"{e.mean:.3f}" for e in energies)]
            rows.append([trained, *numbers, _ratio(energies[-1])])
    head = ("features learnt from", "1 / weight decay", "accuracy", "cosine to the nearest class", "plain", "paper",
            "similar:3:1", "predicted:3:0.6", "pair", "pair / plain")  # fmt: skip
    return _table(head, rows)


def attribute_backbone(study: Study) -> LoadedModel:
    """A CNN trained on attributes of parts but on no species, as general features are; trained once and stored."""
    from safetensors.torch import load_file
    from training.classifiers import train

    out = study.out / "attributes"
    if not (out / "model.safetensors").exists():
        train(
            "cnn", out, seed=1, passes=64_000, fresh=200, species=0.0, log=lambda line: print(line, file=sys.stderr)
        )
    loaded = load_model("fieldguide/cnn")
    loaded.model.load_state_dict({key: value.float() for key, value in load_file(out / "model.safetensors").items()})
    return loaded


def birds_table(study: Study) -> str:
    """Photographs with a hand-drawn box around the part that bird guides name; single cases without statistics."""
    if not birds.FOLDER.is_dir():
        return f"(the photographs are not there: {birds.FOLDER.name})\n"
    rows = birds.rows()
    return _table(("photograph", "against", "box", "its share of the picture", *birds.ASKED), rows)


def photographs_table(study: Study) -> str:
    """Photographs with keypoints: the evidence on the parts in which target and rival differ."""
    if not photographs.FOLDER.is_dir():
        return f"(the photographs are not there: {photographs.FOLDER.name})\n"
    return _table(photographs.HEAD, photographs.rows(study.out))


def _pooled(loaded: LoadedModel, pictures: Fieldguide) -> torch.Tensor:
    """Features `(N, D)` that the head sees."""
    found = []
    with torch.no_grad():
        for batch in loader(pictures, loaded.preprocess, 64):
            found.append(loaded.model.features(batch.images).mean((2, 3)))
    return torch.cat(found)


def _kind(label: int, rival: int) -> str:
    parts = discriminative_parts(label, rival)
    if len(parts) != 1:
        return KINDS[3]
    own, other = (SPECIES[c].marks.get(parts[0]) for c in (label, rival))
    return KINDS[0] if other is None else KINDS[1] if own is None else KINDS[2]


KINDS = ("only the target has it", "only the rival has it (absence)", "both have it, but different", "two parts")
MAIN = ["paper", "similar:1:1", "predicted:1:0.6", "predicted:1:1", "pair", "random"]
LAYERS = {
    "cnn": ["features", "features.5", "features.3", "features.5+features.7", "features.5*features.7"],
    "resnet": ["layer4", "layer3", "layer2", "layer3+layer4", "layer3*layer4", "layer2*layer3*layer4"],
    "vit": ["blocks.3.norm1", "norm", "blocks.2.norm1", "blocks.3.norm1+norm", "blocks.3.norm1*norm"],
}
HEAD = ("AP", "pointing", "energy on what differs", "ratio to plain", "energy on shared", "on background")
RD = (
    "deletion", "rd@5% similar", "rd@10% similar", "rd@5% held-out", "rd@10% held-out",
    "rd@5% strongest", "rd@10% strongest", "rd/p@5% held-out", "rd log@5% held-out",
)  # fmt: skip

PAPER = [
    ("the paper, Birds-525", "gradcam", "plain", ".079", ".174", ".245"),
    ("the paper, Birds-525", "gradcam", "paper", ".076", ".192", ".260"),
    ("the paper, Birds-525", "layercam", "plain", "", ".186", ".255"),
    ("the paper, Birds-525", "layercam", "paper", "", ".201", ".270"),
    ("the paper, Birds-525", "scorecam", "plain", "", ".151", ".217"),
    ("the paper, Birds-525", "scorecam", "paper", "", ".163", ".227"),
    ("the paper, CUB", "gradcam", "plain", "", ".101", ".113"),
    ("the paper, CUB", "gradcam", "paper", "", ".112", ".121"),
]
"""Numbers of the Finer-CAM authors for CLIP with a linear head, on other data and with their choice of rival."""

TABLES: dict[str, Callable[[Study], str]] = {
    "main": main_table,
    "methods": methods_table,
    "gamma": gamma_table,
    "count": count_table,
    "strategy": strategy_table,
    "weights": weights_table,
    "layers": layers_table,
    "rd": rd_table,
    "presence": presence_table,
    "heads": heads_table,
    "birds": birds_table,
    "photographs": photographs_table,
}


def _block(lines: list[Line], of: Sequence[Sequence[str]], model: str) -> list[list[str]]:
    methods, asks = of
    return [
        [model, method, ask]
        + [_mark(_get(lines, method, ask, name)) for name in (AP, POINTING)]
        + [show(_get(lines, method, ask, ENERGY)) for show in (_interval, _ratio)]
        + [_mark(_get(lines, method, ask, name)) for name in (SHARED, BACKGROUND)]
        for method in methods
        for ask in asks
    ]


def _chance(lines: list[Line], model: str) -> list[list[str]]:
    names = (AP, POINTING, ENERGY, SHARED, BACKGROUND)
    rows = []
    for method, which in (("chance", ""), *(("control", name) for name in ("uniform", "gaussian", "shuffled"))):
        cells = [f"{_get(lines, method, which, name).mean:.3f}" for name in names]
        rows.append([model, method, which, *cells[:3], "", *cells[3:]])
    return rows


def _get(lines: list[Line], method: str, contrast: str, metric: str) -> Line:
    (found,) = [x for x in lines if (x.method, x.contrast, x.metric) == (method, contrast, metric)]
    return found


def _interval(line: Line) -> str:
    return f"{line.mean:.3f} [{line.low:.3f}, {line.high:.3f}]"


def _ratio(line: Line) -> str:
    return "" if line.ratio != line.ratio else f"{line.ratio:.2f} [{line.ratio_low:.2f}, {line.ratio_high:.2f}]"


def _mark(line: Line) -> str:
    """The value, in bold if the paired 95 % interval of the difference from plain excludes zero."""
    sure = line.difference_low > 0 or line.difference_high < 0
    return f"**{line.mean:.3f}**" if sure else f"{line.mean:.3f}"


def _best(values: Sequence[float]) -> list[str]:
    top = max(values)
    return [f"**{v:.3f}**" if v == top else f"{v:.3f}" for v in values]


def _table(head: Sequence[str], rows: list[list[str]]) -> str:
    ruler = ["---" if cell[:1].isalpha() else "--:" for cell in rows[0]]
    lines = [head, ruler, *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines) + "\n"


def _stamp(study: Study) -> str:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return (
        f"_Fieldguide seed {SEED}, {study.count} pictures unless said otherwise; commit {commit}, torch "
        f"{torch.__version__.split('+')[0]}, Python {platform.python_version()}, {platform.machine()}._\n"
    )


def write_page(tables: dict[str, str]) -> None:
    """Replace the text between `<!-- table:name -->` and `<!-- end -->` in the appendix, and refresh the quotations."""
    text = quote.STUDY.read_text(encoding="utf-8")
    for name, table in tables.items():
        pattern = rf"(<!-- table:{name} -->\n).*?(<!-- end -->)"
        text, found = re.subn(pattern, lambda m, t=table: m[1] + "\n" + t + "\n" + m[2], text, flags=re.S)
        if not found:
            print(f"{quote.STUDY.name} has no place for table {name!r}", file=sys.stderr)
    quote.STUDY.write_text(text, encoding="utf-8")
    quote.main()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/study"))
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--only", nargs="*", default=list(TABLES), choices=list(TABLES))
    parser.add_argument("--write", action="store_true", help="put the tables into the documentation")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS), help="only these models")
    options = parser.parse_args()
    MODELS[:] = options.models
    study = Study(options.out, options.count)
    tables = {}
    for name in options.only:
        tables[name] = TABLES[name](study) + "\n" + _stamp(study)
        print(f"## {name}\n\n{tables[name]}", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "tables.json").write_text(json.dumps(tables, indent=1), encoding="utf-8")
    if options.write:
        write_page(tables)


if __name__ == "__main__":
    main()
