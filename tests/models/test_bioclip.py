"""BioCLIP's way of publishing: open_clip models with their own configuration, and taxonomic names as classes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from finercam import FinerCAM, FinerCAMError, ZeroShotClassifier, load_model
from finercam.data.taxonomy import Taxonomy, read_taxonomy
from finercam.models.image_text import load_image_text

ROWS = [
    ("Paridae", "Poecile", "atricapillus", "Black-capped Chickadee"),
    ("Paridae", "Poecile", "carolinensis", "Carolina Chickadee"),
    ("Paridae", "Baeolophus", "bicolor", ""),
    ("Corvidae", "Pica", "hudsonia", "Black-billed Magpie"),
]
HEADER = "uuid,kingdom,phylum,class,order,family,genus,species,common_name"
TABLE = "\n".join([HEADER, *(f"{n},Animalia,Chordata,Aves,Passeriformes,{','.join(r)}" for n, r in enumerate(ROWS))])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A repository as `imageomics/bioclip` has it, with a small ViT and random weights."""
    import open_clip.model
    from safetensors.torch import save_file

    place = tmp_path_factory.mktemp("bioclip")
    vision = {"image_size": 64, "patch_size": 16, "layers": 2, "width": 64, "head_width": 32}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    model_cfg = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    config = {"model_cfg": model_cfg, "preprocess_cfg": {"mean": mean, "std": std}}
    (place / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    save_file(open_clip.model.CLIP(24, vision, text).state_dict(), place / "open_clip_model.safetensors")
    return place


@pytest.mark.slow
def test_species_are_explained_against_their_relatives(folder, pictures):
    loaded = load_image_text(f"open_clip/local-dir:{folder}")
    assert loaded.preprocess.size == (64, 64) and loaded.preprocess.mean[0] == pytest.approx(0.48145466)
    birds = Taxonomy.of(dict(zip(("family", "genus", "species", "common_name"), row, strict=True)) for row in ROWS)
    classify = ZeroShotClassifier(loaded.model, loaded.tokenizer, birds.prompts())
    explain = FinerCAM(classify, preset="fast")
    rivals = birds.relatives("Carolina Chickadee", "family")
    answer = explain(pictures(2, 64), target="Poecile carolinensis", against=rivals)
    assert answer.reference_names[0] == ["Poecile atricapillus", "Baeolophus bicolor"]
    assert answer.signed.abs().max() > 0


@pytest.mark.slow
def test_the_page(run_page, folder, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_page("species.md", {'"open_clip/bioclip"': f'"open_clip/local-dir:{folder}"'}, images=pictures(1, 64))
    assert names["answer"].reference_names == [["Poecile atricapillus"]]
    assert names["wider"].reference_names == [["Poecile atricapillus", "Baeolophus bicolor"]]


@pytest.mark.slow
def test_the_image_tower_alone_has_the_weights_of_the_folder(folder, pictures):
    from safetensors.torch import load_file

    tower = load_model(f"open_clip/local-dir:{folder}")
    kept = load_file(folder / "open_clip_model.safetensors")
    torch.testing.assert_close(tower.model.visual.conv1.weight, kept["visual.conv1.weight"])
    assert tower.model(pictures(1, 64)).shape == (1, 24)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hf_model_name": "org/repo"}, "names another repository"),
        ({"hf_tokenizer_name": "org/repo"}, "names another repository"),
        (None, "no open_clip_config.json"),
        ("weights", "ckpt|weights|checkpoint"),
    ],
)
def test_a_folder_that_would_fetch_or_lacks_something_is_refused(folder, tmp_path, change, words):
    if change is not None:
        config = json.loads((folder / "open_clip_config.json").read_text())
        config["model_cfg"]["text_cfg"] |= change if isinstance(change, dict) else {}
        (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(FinerCAMError, match=words) as caught:
        load_image_text(f"open_clip/local-dir:{tmp_path}")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["open_clip/bioclip", "open_clip/hf-hub:imageomics/bioclip-2"])
def test_a_hub_out_of_reach_is_one_line(text, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for load in (load_model, load_image_text):
        with pytest.raises(FinerCAMError) as caught:
            load(text)
        assert "\n" not in str(caught.value) and text in str(caught.value)
    with pytest.raises(FinerCAMError, match="pretrained=false does not apply"):
        load_model(f"{text}?pretrained=false")


def test_tables_of_both_kinds_are_read(tmp_path):
    import pyarrow.csv as csv
    import pyarrow.parquet as pq

    (tmp_path / "catalog.csv").write_text(TABLE + "\n9,Animalia,,,,,Poecile,,\n")
    pq.write_table(csv.read_csv(tmp_path / "catalog.csv"), tmp_path / "catalog.parquet")
    read = [read_taxonomy(tmp_path / f"catalog.{kind}") for kind in ("csv", "parquet")]
    assert sorted(read[0].species) == sorted(read[1].species) and len(read[0].species) == 4
    assert read[0].prompts() == {name: read[1].prompts()[name] for name in read[0].species}
    assert read[0].prompts(species=["pica hudsonia"]) == {
        "Pica hudsonia": "Animalia Chordata Aves Passeriformes Corvidae Pica hudsonia with common name Black-billed Magpie"
    }
    assert (
        read[0].prompts("taxonomic")["Baeolophus bicolor"]
        == "Animalia Chordata Aves Passeriformes Paridae Baeolophus bicolor"
    )
    assert read[0].prompts("common")["Baeolophus bicolor"] == "Baeolophus bicolor"
    assert {taxon: len(members) for taxon, members in read[0].groups("family").items()} == {
        "Paridae": 3,
        "Corvidae": 1,
    }


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda birds: birds.name("Pica pica"), "'Pica pica' is not in the taxonomy. Did you mean"),
        (lambda birds: birds.relatives("Pica hudsonia", "tribe"), "rank='tribe'"),
        (lambda birds: birds.prompts("latin"), "style='latin'"),
        (lambda _: Taxonomy.of([{"genus": "Pica"}]), "no row has a genus and a species"),
        (
            lambda _: Taxonomy.of(
                [{"family": f, "genus": "Pica", "species": "pica"} for f in ("Corvidae", "Paridae")]
            ),
            "'Pica pica' has two lineages",
        ),
    ],
)
def test_bad_questions_are_one_line(ask, words):
    birds = Taxonomy.of([{"genus": "Pica", "species": "Pica hudsonia", "common_name": "Magpie"}])
    with pytest.raises(FinerCAMError, match=words) as caught:
        ask(birds)
    assert "\n" not in str(caught.value)
