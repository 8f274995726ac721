"""`diagnose` on architectures that nobody here wrote, made from their configurations."""

import importlib
import importlib.abc
import importlib.machinery
import sys
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gradients_in_depth.diagnosis import diagnose
from tests.measuring import mean_square


def names(diagnosis):
    return [finding.disease for finding in diagnosis.findings]


@pytest.fixture(autouse=True)
def _own_random_state():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


IDS = torch.randint(5, 99, (8, 12), generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8) % 2
SMALL = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
TEXT = {"input_ids": IDS, "labels": IDS}
PICTURE = {"pixel_values": IMAGES, "labels": LABELS}
GPT2 = {
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "vocab_size": 99,
    "n_positions": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
T5 = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "vocab_size": 99,
    "decoder_start_token_id": 0,
}
VIT = {**SMALL, "image_size": 32, "patch_size": 8}
CONVNEXT = {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 2, 1], "patch_size": 2}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 2], "layer_type": "basic"}
TRANSFORMERS = [
    ("GPT2", "LMHeadModel", GPT2, TEXT, []),
    ("Llama", "ForCausalLM", SMALL | {"num_key_value_heads": 2}, TEXT, []),
    ("T5", "ForConditionalGeneration", T5, TEXT, []),
    ("Bert", "ForSequenceClassification", SMALL, {"input_ids": IDS, "labels": LABELS}, ["post_norm"]),
    ("ViT", "ForImageClassification", VIT, PICTURE, []),
    ("ConvNext", "ForImageClassification", CONVNEXT, PICTURE, []),
    ("ResNet", "ForImageClassification", RESNET, PICTURE, []),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "kind", "settings", "inputs", "found"),
    TRANSFORMERS,
    ids=[case[0] for case in TRANSFORMERS],
)
def test_architectures_of_transformers(family, kind, settings, inputs, found):
    transformers = importlib.import_module("transformers")
    config = getattr(transformers, f"{family}Config")(**settings)
    model = getattr(transformers, f"{family}{kind}")(config).train()
    diagnosis = diagnose(model, inputs, None, lambda outputs: outputs.loss)
    assert names(diagnosis) == found, str(diagnosis)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 and "embed" not in name and "wte" not in name and "shared" not in name:
                parameter.fill_(0.02)
    assert names(diagnose(model, inputs, None, lambda outputs: outputs.loss))[0] == "symmetric"


@pytest.mark.slow
def test_an_unused_pooler_is_named_as_the_model_names_it():
    transformers = importlib.import_module("transformers")
    model = transformers.BertModel(transformers.BertConfig(**SMALL))
    diagnosis = diagnose(
        model, {"input_ids": IDS}, None, lambda outputs: mean_square(outputs.last_hidden_state), warm_up=True
    )
    assert names(diagnosis) == ["no_gradient"]
    assert diagnosis.findings[0].where == ("pooler.dense",)


class _AnyName(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Empty(types.ModuleType):
    __path__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _AnyName(name, (), {})


class _InPlaceOfTorchvision(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """timm imports torchvision for pictures from files, which no architecture needs."""

    def find_spec(self, name, path=None, target=None):
        return (
            importlib.machinery.ModuleSpec(name, self, is_package=True)
            if name.split(".")[0] == "torchvision"
            else None
        )

    def create_module(self, spec):
        return _Empty(spec.name)

    def exec_module(self, module):
        pass


@pytest.fixture(scope="module")
def timm():
    """In the Makefile and not a requirement, because its metadata brings torchvision, and CUDA with it."""
    finder = _InPlaceOfTorchvision()
    sys.meta_path.append(finder)  # at the end: a torchvision that is installed goes first
    try:
        yield pytest.importorskip("timm")
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            if isinstance(sys.modules[name], _Empty):
                del sys.modules[name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("resnet10t", {}),
        ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 4}),
        ("convnext_atto", {"dims": (8, 16, 24, 32), "depths": (1, 1, 2, 1)}),
        ("regnetx_002", {}),
    ],
)
def test_architectures_of_timm(timm, name, settings):
    model = timm.create_model(name, pretrained=False, num_classes=10, **settings)
    diagnosis = diagnose(model, IMAGES, torch.arange(8), F.cross_entropy)
    assert names(diagnosis) == [], str(diagnosis)
    with torch.no_grad():
        evaluated = diagnose(model, IMAGES, torch.arange(8), F.cross_entropy)
    has_batch_norm = any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert names(evaluated) == (["forgotten_eval"] if has_batch_norm else [])
