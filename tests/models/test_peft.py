"""Models adapted by peft's LoRA are explained as the merged model, and are left as they were."""

from __future__ import annotations

import copy

import pytest
import torch

from finercam import FinerCAM

pytestmark = pytest.mark.slow


def timm_model():
    import timm

    return timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=5)


def transformers_model():
    from transformers import ViTConfig, ViTForImageClassification

    tiny = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    return ViTForImageClassification(ViTConfig(**tiny, image_size=32, patch_size=8, num_labels=5))


@pytest.mark.parametrize("preset", ["fine", "finest"])
@pytest.mark.parametrize(
    ("make", "adapted"), [(timm_model, ["qkv", "fc1"]), (transformers_model, ["q_proj", "v_proj"])]
)
def test_a_model_with_lora_is_explained_as_the_merged_one(pictures, make, adapted, preset):
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = get_peft_model(
            make(), LoraConfig(r=2, target_modules=adapted, lora_dropout=0.1, init_lora_weights=False)
        )
    model.train()  # with dropout in the adapters
    merged = copy.deepcopy(model).eval().merge_and_unload()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    images, question = pictures(2, size=32), {"target": [0, 1], "against": [[2], [3]]}
    answer, expected = (
        FinerCAM(model, preset=preset)(images, **question),
        FinerCAM(merged, preset=preset)(images, **question),
    )
    assert [name.removeprefix("base_model.model.") for name in answer.layers] == list(expected.layers)
    torch.testing.assert_close(answer.logits, expected.logits)
    torch.testing.assert_close(
        answer.signed, expected.signed, rtol=1e-3, atol=1e-4 * float(expected.signed.abs().max())
    )
    assert model.training and all(p.grad is None for p in model.parameters())
    assert trained == [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
