"""The documentation is true: its code runs, its messages are raised, its numbers are the study's, its site is whole."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from torch import Tensor, nn
from typer.testing import CliRunner

from finercam import FinerCAM, FinerCAMError
from finercam.cli import app
from finercam.commands.examples import EXAMPLES, NOT_RUN
from finercam.data.fieldguide import Fieldguide

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {page.relative_to(DOCS).as_posix(): page for page in sorted(DOCS.rglob("*.md"))} | {
    "README.md": ROOT / "README.md"
}
CODE = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
RUN_ELSEWHERE = {
    "datasets.md": "data/test_datasets_page.py",
    "probe.md": "probe/test_probe_page.py",
    "report.md": "report/test_report_page.py",
    "scale.md": "run/test_scale_page.py",
    "species.md": "models/test_bioclip.py",
}
"""Pages whose Python is run by a test beside the fixtures that it needs."""


def code(page: str) -> list[tuple[int, str]]:
    """The page's Python blocks, each with the line on which it begins."""
    text = PAGES[page].read_text(encoding="utf-8")
    return [(text[: found.start(1)].count("\n"), found[1]) for found in CODE.finditer(text)]


def noise(count: int, size: int) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def small_resnet(weights: Any = None, num_classes: int = 1000) -> nn.Module:
    from torchvision.models.resnet import BasicBlock, ResNet

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=num_classes)
        model.fc.weight.data *= 20  # random weights make small logits; the peers divide by their size plus 1e-7
    return model.eval()


@pytest.fixture
def small(monkeypatch):
    """In the place of trained networks, small ones of the same families with random weights."""
    import open_clip
    import timm
    import transformers

    import finercam.models
    from finercam.models import load_model

    create = timm.create_model
    clip = {
        "embed_dim": 16,
        "vision_cfg": {"layers": 2, "width": 32, "head_width": 16, "patch_size": 32, "image_size": 224},
        "text_cfg": {"layers": 1, "width": 16, "heads": 2},
    }
    vit = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_labels=5
    )

    def tiny_vit(_name: str, pretrained: bool = False, **options: Any) -> nn.Module:
        return create("vit_tiny_patch16_224", pretrained=False, embed_dim=32, num_heads=2, **options)

    monkeypatch.setattr("torchvision.models.resnet50", small_resnet)
    monkeypatch.setattr(timm, "create_model", tiny_vit)
    monkeypatch.setattr(
        transformers.AutoModelForImageClassification,
        "from_pretrained",
        lambda _name: transformers.ViTForImageClassification(vit),
    )
    monkeypatch.setattr(
        open_clip, "create_model_and_transforms", lambda *_, **__: (open_clip.CLIP(**clip).eval(), None, None)
    )
    monkeypatch.setattr(finercam.models, "load_model", lambda _name: load_model("fieldguide/cnn"))
    return tiny_vit


# --- code


ALONE = ("index", "quickstart", "fieldguide", "tokens", "fine", "exports", "traits", "deploy", "volumes", "rival")
"""Pages whose Python needs nothing but the package."""


def test_every_page_with_code_is_run():
    run_here = {"README.md", *(f"{page}.md" for page in ALONE)}
    run_here |= {"your-model.md", "troubleshooting.md", "migrating.md", "zeroshot.md", "recipes.md"}
    assert {page for page in PAGES if code(page)} == run_here | set(RUN_ELSEWHERE)
    for page, file in RUN_ELSEWHERE.items():
        assert f'run_page("{page}"' in (ROOT / "tests" / file).read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("page", [f"{page}.md" for page in ALONE])
@pytest.mark.system
def test_pages_that_stand_alone(run_page, page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = run_page(page)
    if page == "quickstart.md":
        shown = re.search(r"```text\n(<Explanation.*?)\n```", PAGES[page].read_text(encoding="utf-8"))
        assert shown and shown[1] in capsys.readouterr().out
        assert (tmp_path / "out" / "explanations.json").exists() and (tmp_path / "report.html").exists()
        assert names["answer"].maps.max() == 1


@pytest.mark.slow
def test_readme(tmp_path, monkeypatch):
    """Its code and its commands run as written, in order, in one folder."""
    monkeypatch.chdir(tmp_path)
    start, own = (block for _, block in code("README.md"))
    exec(start, {})
    given = {"model": small_resnet(num_classes=3), "names": ["wren", "robin", "finch"], "images": noise(2, 64)}
    exec(own, {"FinerCAM": FinerCAM, "torch": torch, **given})
    for words in commands("README.md"):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, f"{shlex.join(words)}\n{done.output}"
    assert (tmp_path / "out" / "page.html").exists() and (tmp_path / "out" / "evaluate" / "summary.md").exists()
    assert len(PAGES["README.md"].read_text(encoding="utf-8").splitlines()) <= 100


@pytest.mark.slow
def test_your_model(run_page, small, capsys):
    from finercam import methods
    from finercam.methods import method

    try:
        names = run_page("your-model.md", images=noise(1, 224))
        assert "positive-hirescam" in methods.names()
    finally:
        method._REGISTRY.pop("positive-hirescam", None)
    printed = capsys.readouterr().out
    assert "('layer4',)" in printed and "('blocks.11.norm1',) torch.Size([1, 14, 14])" in printed
    assert names["answer"].signed.abs().max() > 0


@pytest.mark.slow
def test_troubleshooting(run_page, small):
    model, images = small_resnet(num_classes=4), noise(2, 64)
    explain = FinerCAM(model, class_names=["wren", "robin", "finch", "dunnock"])
    given = {"model": model, "images": images, "explain": explain, "label": 0, "rival": 1}
    names = run_page("troubleshooting.md", answer=explain(images, 0, 1), FinerCAM=FinerCAM, **given)
    assert [len(part) for part in names["maps"]] == [2]


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_migrating_gives_equal_maps(run_page, small, monkeypatch):
    """The page's own checks compare with the peers; none of them compares blank maps."""
    pytest.importorskip("pytorch_grad_cam")
    pytest.importorskip("torchcam")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vit = small("", patch_size=32, img_size=128, num_classes=5).eval()
    vit.head.weight.data *= 1000
    checked, compare = [], torch.testing.assert_close

    def spy(ours: Tensor, theirs: Tensor, **tolerance: float) -> None:
        checked.append(float(theirs.max()))
        compare(ours, theirs, **tolerance)

    monkeypatch.setattr(torch.testing, "assert_close", spy)
    run_page("migrating.md", model=small_resnet(num_classes=5), vit=vit, images=noise(2, 128))
    assert len(checked) == 9 and min(checked) > 0.99


@pytest.mark.slow
def test_zeroshot(run_page, small):
    names = run_page("zeroshot.md", images=noise(2, 224))
    assert names["answer"].signed.abs().max() > 0
    assert names["classify"].class_embeddings.shape == (3, 16)


@pytest.mark.slow
def test_recipes(run_page, tmp_path, monkeypatch):
    from torchvision.models import detection, resnet18, segmentation
    from torchvision.models._utils import IntermediateLayerGetter
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    monkeypatch.chdir(tmp_path)
    pyramid = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    body = IntermediateLayerGetter(resnet18(), {"layer4": "out"})
    segmenter = segmentation.FCN(body, segmentation.fcn.FCNHead(512, 21))
    monkeypatch.setattr(detection, "fasterrcnn_resnet50_fpn", lambda weights: detection.FasterRCNN(pyramid, 21))
    monkeypatch.setattr(segmentation, "fcn_resnet50", lambda weights: segmenter)
    model, labels = small_resnet(num_classes=4), torch.tensor([0, 1, 2, 3])
    data = [(noise(4, 64), labels), (noise(4, 64).flip(-1), labels)]
    names = run_page("recipes.md", model=model, loader=data, names=["wren", "robin", "finch", "dunnock"])
    assert len(names["rows"]) == 8 and sum(map(len, names["mistakes"])) == int(
        sum((model(images).argmax(1) != own).sum() for images, own in data)
    )
    assert names["answer"].signed.abs().max() > 0 and (tmp_path / "coco.json").exists()


# --- commands


def commands(page: str) -> list[list[str]]:
    """The `finercam` command lines of a page's shell blocks, as words."""
    text = PAGES[page].read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = (
        "\n".join(block for language, block in blocks if language in ("sh", "bash", "console", ""))
        .replace("\\\n", " ")
        .splitlines()
    )
    return [shlex.split(line, comments=True)[1:] for line in map(undecorated, lines) if line.startswith("finercam ")]


def undecorated(line: str) -> str:
    return line.removeprefix("$ ").removeprefix(".venv/bin/")


def parse(words: list[str]) -> None:
    """Check command, options and types as the program would, and run nothing."""
    group: Any = typer.main.get_command(app)
    if words[:1] and not words[0].startswith("-"):
        group.commands[words[0]].make_context(words[0], words[1:])


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_the_pages_are_understood(page):
    for words in commands(page):
        try:
            parse(words)
        except Exception as error:
            pytest.fail(f"{page}: finercam {shlex.join(words)}: {error}")


def test_there_are_commands_to_check():
    assert sum(len(commands(page)) for page in PAGES) > 30
    with pytest.raises(Exception, match="No such option"):
        parse(["models", "--nonsense"])


def test_the_page_of_the_command_line_is_up_to_date(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    from cli_page import page

    assert PAGES["cli.md"].read_text(encoding="utf-8") == page(), "run: python docs/cli_page.py"


@pytest.fixture
def practice(tmp_path, monkeypatch):
    """The folder in which the examples of the help run: `photos/`, and `birds/` in class folders."""
    guide = Fieldguide(300, seed=8)
    chosen = [index for index in range(300) if guide.classes[guide.label(index)].endswith("Pippin")][:24]
    for count, index in enumerate(chosen):
        name = guide.classes[guide.label(index)]
        for path in [tmp_path / "birds" / name / f"{index}.png"] + [tmp_path / "photos" / f"{index}.png"] * (
            count < 3
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            guide.image(index).save(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.slow
@pytest.mark.system
def test_examples_of_the_help_run(practice):
    for command, lines in EXAMPLES.items():
        for line in lines:
            words = shlex.split(line.replace("\\\n", " "))[1:]
            parse(words)
            if not any(mark in line for mark in NOT_RUN):
                done = CliRunner().invoke(app, words)
                assert done.exit_code == 0, f"{line}\n{done.output}"
        assert "Examples:" in CliRunner().invoke(app, [command, "--help"]).output
    assert (practice / "out" / "run.html").exists() and (practice / "out" / "audit" / "audit.png").exists()


# --- messages


def cnn(classes: int = 4) -> nn.Module:
    parts = {
        "stage1": nn.Conv2d(3, 4, 3, stride=2), "act": nn.ReLU(), "stage2": nn.Conv2d(4, 6, 3, stride=2),
        "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "head": nn.Linear(6, classes),
    }  # fmt: skip
    model = nn.Sequential()
    for name, part in parts.items():
        model.add_module(name, part)
    return model


class Then(nn.Module):
    """A model whose output, or input, is changed afterwards."""

    def __init__(self, change: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.body, self.change = cnn(), change

    def forward(self, x: Tensor) -> Any:
        return self.change(self.body(x), x)


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.aux = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(3, 2, 3)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        self.aux(x)
        return self.relu(self.two(self.relu(self.one(x)))).mean((2, 3))


IMAGES, NAMES = noise(2, 32), ["wren", "robin", "finch", "dunnock"]
CORRUPT = torch.where(torch.arange(2)[:, None, None, None] == 1, torch.nan, IMAGES)

MISTAKES: list[Callable[[], Any]] = [
    lambda: FinerCAM(cnn(), layer="stage3")(IMAGES),
    lambda: FinerCAM(Shared(), layer="relu")(IMAGES),
    lambda: FinerCAM(Shared(), layer="aux")(IMAGES),
    lambda: FinerCAM(cnn(), layer="head")(IMAGES),
    lambda: FinerCAM(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)))(IMAGES),
    lambda: FinerCAM(cnn())(IMAGES, target=1, against=[1]),
    lambda: FinerCAM(cnn(), class_names=NAMES)(IMAGES, target="robbin"),
    lambda: FinerCAM(cnn())(IMAGES, target="wren"),
    lambda: FinerCAM(cnn(), class_names=NAMES[:3])(IMAGES),
    lambda: FinerCAM(cnn())(IMAGES, target=[0, 1, 2]),
    lambda: FinerCAM(cnn())(IMAGES, target=[2, 3], against=[0, 1]),
    lambda: FinerCAM(Then(lambda y, _: y[:, :3]), references="similar")(IMAGES),
    lambda: FinerCAM(cnn(1))(IMAGES),
    lambda: FinerCAM(Then(lambda y, _: {"species": y, "sex": y}))(IMAGES),
    lambda: FinerCAM(cnn())(CORRUPT),
    lambda: FinerCAM(Then(lambda y, _: y * torch.nan))(IMAGES),
    lambda: FinerCAM(cnn())((IMAGES * 255).byte()),
    lambda: FinerCAM(cnn())(IMAGES[0]),
    lambda: FinerCAM(Then(lambda y, x: (y, x.mul_(2))[0]))(IMAGES),
    lambda: FinerCAM(cnn(), keep="references", keep_images=False)(IMAGES, target=0, against=1).ask(against=2),
    lambda: FinerCAM(cnn(), keep_images=False)(IMAGES).plot(),
]


def test_messages_are_those_of_the_library():
    page = PAGES["troubleshooting.md"].read_text(encoding="utf-8")
    quoted = re.findall(r"^```text\n(.*?)\n```", page, re.DOTALL | re.MULTILINE)
    raised = []
    for mistake in MISTAKES:
        with pytest.raises(FinerCAMError) as caught:
            mistake()
        raised.append(str(caught.value))
    assert sorted(quoted) == sorted(raised)


# --- numbers and pictures


@pytest.mark.parametrize(("name", "least"), [("choosing.md", 8), ("evaluation.md", 2)])
def test_quoted_tables_are_those_of_the_study(name, least):
    from benchmarks.quote import refreshed

    page = PAGES[name].read_text(encoding="utf-8")
    study = PAGES["evaluation-appendix.md"].read_text(encoding="utf-8")
    assert refreshed(page, study) == page, "the study has moved on: python -m benchmarks.quote"
    assert page.count("<!-- quote ") == page.count("<!-- /quote -->") >= least


def test_the_study_writes_its_tables_where_the_pages_quote_them(tmp_path, monkeypatch):
    from benchmarks import quote, study

    for name in (quote.STUDY.name, *quote.PAGES):
        (tmp_path / name).write_text(PAGES[name].read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(quote, "DOCS", tmp_path)
    monkeypatch.setattr(quote, "STUDY", tmp_path / quote.STUDY.name)
    header, rows = quote.read_table(PAGES["evaluation-appendix.md"].read_text(encoding="utf-8"), "main")
    rows[0][header.index("AP")] = "0.987"
    study.write_page({"main": study._table(header, rows)})
    for name in (quote.STUDY.name, "evaluation.md"):
        assert (tmp_path / name).read_text(encoding="utf-8").count("0.987") == 1


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_are_there(page):
    text = re.sub(r"^```.*?^```", "", PAGES[page].read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:|#", target):
            assert (PAGES[page].parent / target.partition("#")[0]).exists(), target


def test_pictures_of_the_concepts_are_drawn_by_a_command_and_small():
    from benchmarks.pictures import DRAWN, LIMIT, PLACES, mermaid_arrows

    shown = set(re.findall(r"images/(concept-[\w-]+)\.png", PAGES["concepts.md"].read_text(encoding="utf-8")))
    assert shown == {name for name in DRAWN if name.startswith("concept-")}
    assert all((DOCS / "images" / f"{name}.png").stat().st_size < LIMIT for name in DRAWN)
    arrows = mermaid_arrows(PAGES["architecture.md"].read_text(encoding="utf-8"))
    assert {box for start, end, _ in arrows for box in (start, end)} == set(PLACES)
    assert len(arrows) >= len(PLACES)


def test_the_wrong_bird_has_the_other_beak():
    """What docs/concepts.md says of its birds."""
    from benchmarks.pictures import BIRD, LACKING, SEED

    birds = Fieldguide(LACKING + 1, seed=SEED)
    grand, barred = birds.label(BIRD), birds.label(LACKING)
    assert birds.classes[grand] == "Grand Grossling" and birds.classes[barred] == "Barred Pippin"
    assert birds.discriminative_parts(grand, "Rusty-winged Grossling") == ("beak",)
    assert "beak" not in birds.discriminative_parts(grand, "Great-billed Grossling")
    assert birds.discriminative_parts(barred, "Royal Pippin") == ("crest",)


# --- the site


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("material")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return out


@pytest.mark.slow
@pytest.mark.system
def test_the_site_is_built_strictly_and_fetches_nothing_from_outside(site):
    tags = re.compile(r"<(?:script|link|img|iframe|source|video|audio|object|embed|use)\b[^>]*>", re.IGNORECASE)
    outside = re.compile(r"(?:src|href|data|srcset)\s*=\s*[\"']?\s*(?:https?:)?//", re.IGNORECASE)
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        html = page.read_text(encoding="utf-8")
        assert [tag for tag in tags.findall(html) if outside.search(tag)] == []
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", html)
        assert 'class="mermaid"' not in html  # the theme would fetch mermaid from a CDN
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", style.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.system
def test_every_public_name_is_in_the_reference(site):
    import finercam

    html = "".join(page.read_text(encoding="utf-8") for page in (site / "api").glob("*.html"))
    documented = {found.rpartition(".")[2] for found in re.findall(r'id="(finercam\.[\w.]+)"', html)}
    modules = ["methods", "metrics", "plot", "references"]
    wanted = set(finercam.__all__) - set(modules)
    for module in (*modules, "concept", "data", "evaluation", "models", "probe", "report", "run", "images"):
        with contextlib.suppress(ImportError):
            __import__(f"finercam.{module}")
        names = getattr(getattr(finercam, module), "__all__", ())
        wanted |= {name for name in names if name not in ("attention",)}
    assert wanted - documented == set()
