"""A few random inputs of the fuzzing targets, and all earlier findings in `tests/regressions/`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzz import contrasts, files, images, seeds
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

REGRESSIONS = Path(__file__).parent / "regressions"
PICTURES, FILES = seeds.pictures(), seeds.files()
SETTINGS = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}


def _kept(target: str) -> list[Path]:
    return sorted((REGRESSIONS / target).glob("*"))  # git keeps no empty folder


@pytest.mark.parametrize("file", _kept("images"), ids=lambda file: file.name)
def test_pictures_that_broke_it_once(file: Path) -> None:
    images.check(file.read_bytes())


@pytest.mark.parametrize("file", _kept("files"), ids=lambda file: file.name)
def test_files_that_broke_it_once(file: Path) -> None:
    door, _, content = file.read_bytes().partition(b"\n")  # by the door's name, so that doors can be added
    files.check(files.named(door.decode(), content))


@pytest.mark.parametrize("name", PICTURES)
def test_the_seeds_are_pictures(name: str) -> None:
    images.check(PICTURES[name])
    from finercam.images import read_image

    assert read_image(PICTURES[name]).mode == "RGB"


def mutated(data: bytes, draw: Any) -> bytes:
    """Some bytes changed, a piece cut out, doubled or put elsewhere, the end cut off."""
    content = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        length = draw(st.sampled_from([1, 2, 4, 16, 64]))
        piece = bytes(content[at : at + length])
        match draw(st.sampled_from(["set", "flip", "cut", "double", "insert", "end"])):
            case "set":
                content[at : at + length] = draw(st.sampled_from([b"\0", b"\xff", b"\x7f", b"\x80"])) * len(piece)
            case "flip":
                content[at : at + 1] = bytes([piece[0] ^ (1 << draw(st.integers(0, 7)))]) if piece else b""
            case "cut":
                del content[at : at + length]
            case "double":
                content[at:at] = piece
            case "insert":
                content[at:at] = draw(st.binary(max_size=8))
            case "end":
                del content[at:]
    return bytes(content)


@settings(max_examples=150, **SETTINGS)
@given(st.sampled_from(sorted(PICTURES)), st.data())
def test_mutated_pictures(name: str, data: st.DataObject) -> None:
    images.check(mutated(PICTURES[name], data.draw))


@settings(max_examples=60, **SETTINGS)
@given(st.sampled_from(sorted(FILES)), st.data())
def test_mutated_files(door: str, data: st.DataObject) -> None:
    files.check(files.named(door, mutated(FILES[door], data.draw)))


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.just("x" * 5000)
anything = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner)
)


@settings(max_examples=80, **SETTINGS)
@given(st.sampled_from(["config", "probe", "preprocess", "processor", "funnybirds", "fishvista-traits"]), st.data())
def test_json_of_another_shape(door: str, data: st.DataObject) -> None:
    """One value somewhere in the tree is replaced, dropped or renamed."""
    tree = json.loads(FILES[door])
    node, depth = tree, data.draw(st.integers(0, 3))
    for _ in range(depth):
        inner = [key for key in _keys(node) if isinstance(node[key], dict | list) and node[key]]
        if not inner:
            break
        node = node[data.draw(st.sampled_from(inner))]
    key = data.draw(st.sampled_from(list(_keys(node))))
    match data.draw(st.sampled_from(["replace", "drop", "rename"])):
        case "replace":
            node[key] = data.draw(anything)
        case "drop":
            del node[key]
        case "rename" if isinstance(node, dict):
            node[data.draw(st.text(max_size=4))] = node.pop(key)
    files.check(files.named(door, json.dumps(tree).encode()))


def _keys(node: Any) -> Any:
    return list(node) if isinstance(node, dict) else range(len(node))


@pytest.mark.slow
@settings(max_examples=200, **SETTINGS)
@given(contrasts.explainers, contrasts.questions, contrasts.questions)
@example({}, {"gamma": 10**400}, {})
@example({}, {"target": [0, 1], "against": [2]}, {"gamma": 0})
@example({}, {"gamma": 1.5e186}, {"gamma": 1e30})
@example({"references": np.array([[1], [2]])}, {}, {})
@example({"class_names": np.array(1)}, {}, {})
@example({"smooth": np.array([1, 2])}, {}, {})
@example({"preset": []}, {}, {})
@example({}, {"target": torch.tensor([1, 2]).to_sparse()}, {})
@example({"keep": torch.tensor([1, 2]).to_sparse()}, {}, {})
@example({}, {"weights": np.array([1, 2])}, {"against": "Blue Jay\n"})
@example({}, {}, {"weights": np.array(["Blue Jay", "Junco"])})
def test_questions_of_every_kind(build: dict[str, Any], ask: dict[str, Any], again: dict[str, Any]) -> None:
    contrasts.check(build, ask, again)
