"""Shared fixtures: tiny random models and transcoders, made once per session, offline."""

import functools
import gc
import sys
from pathlib import Path

import pytest
import typechecking
from slowest import pytest_addoption, pytest_runtest_makereport, pytest_terminal_summary  # noqa: F401

typechecking.install()

KINDS = ("gpt2", "llama", "qwen3", "gemma2", "gemma3")


@pytest.fixture(autouse=True)
def one_thread():
    """A command that took two threads gives them back: with a worker a core, more than one each wait for one another."""
    yield
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "set_num_threads"):
        torch.set_num_threads(1)


def pytest_configure() -> None:
    """What is imported stays; looking through all of it for rubbish takes seconds, and once more with each new module."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Tables and figures are made of many small objects; by its own thresholds Python would look through them at every turn."""
    gc.enable()
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


def write_tiny_model(folder: Path, kind: str, *, n_layers: int = 3, seed: int = 0, tokenizer: bool = True) -> Path:
    """A random Hugging Face model of one architecture (d_model 32, 100 words) in `folder`; returns the folder.

    Norm gains and biases are perturbed so that a mistake in a gain shows; matrices are scaled up so that paths differ.
    """
    import torch
    import transformers

    torch.manual_seed(seed)
    shared = dict(
        vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=n_layers, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, bos_token_id=2, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    gemma = dict(query_pre_attn_scalar=8, sliding_window=4)
    configurations = {
        "gpt2": lambda: transformers.GPT2Config(
            vocab_size=100, n_embd=32, n_layer=n_layers, n_head=4, n_positions=64, bos_token_id=2, eos_token_id=1
        ),
        "llama": lambda: transformers.LlamaConfig(**shared),
        "qwen3": lambda: transformers.Qwen3Config(**shared),
        "gemma2": lambda: transformers.Gemma2Config(
            **shared, **gemma, attn_logit_softcapping=50.0, final_logit_softcapping=30.0
        ),
        "gemma3": lambda: transformers.Gemma3TextConfig(**shared, **gemma),
    }
    network = transformers.AutoModelForCausalLM.from_config(configurations[kind]())
    for name, parameter in network.named_parameters():
        if "norm" in name or "ln_" in name or name.endswith("bias"):
            parameter.data.add_(0.3 * torch.randn_like(parameter))
        elif parameter.dim() > 1:
            parameter.data.mul_(8.0)
    network.eval().save_pretrained(folder)
    if tokenizer:
        write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """A word-level tokenizer of 96 words w0 .. w95 and four special tokens; `<bos>` has id 2."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<eos>", "<bos>", "<unk>"] + [f"w{i}" for i in range(96)]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)


@pytest.fixture(scope="module")
def unchecked():
    """For a module whose calls are many: without the checks of types and shapes, which other tests make."""
    import jaxtyping

    checked = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", checked)


@pytest.fixture(scope="session")
def corpus():
    """The corpus of elegans (made once per session; leave it as you found it)."""
    from biology.corpora.corpus import Corpus

    return Corpus()


@pytest.fixture(scope="session")
def words(corpus):
    """The tokenizer of elegans (made once per session)."""
    from biology.organisms.vocabulary import tokenizer

    return tokenizer(corpus)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Factory: `tiny(kind)` is the directory of a random model of that architecture (made once per session)."""

    @functools.cache
    def make(kind: str, n_layers: int = 3, seed: int = 0) -> Path:
        return write_tiny_model(tmp_path_factory.mktemp(f"tiny_{kind}"), kind, n_layers=n_layers, seed=seed)

    return make


@pytest.fixture(scope="session")
def tiny_model(tiny):
    """Factory: `tiny_model(kind, dtype)` is the loaded model (made once per session; leave it as you found it)."""
    import torch

    from biology.models.model import load_model

    @functools.cache
    def load(kind: str, dtype: torch.dtype = torch.float32, n_layers: int = 3, seed: int = 0):
        return load_model(tiny(kind, n_layers, seed), dtype=dtype)

    return load


def random_transcoders(
    model, kind: str = "per_layer", activation: str = "relu", skip: bool = False, n_features: int = 48, k: int = 6,
    read_hook: str = "mlp.hook_in", write_hook: str = "hook_mlp_out", seed: int = 0, b_enc: float = -0.5,
):  # fmt: skip
    """Random transcoders of the right shapes for a loaded model; about a third of the ReLU features are active."""
    import torch

    from biology.transcoders.transcoder_set import Transcoder, TranscoderSet

    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, scale=1.0):
        return (torch.randn(*shape, generator=generator, dtype=torch.float64) * scale).to(model.device, model.dtype)

    layers, d_model = [], model.d_model
    for layer in range(model.n_layers):
        targets = model.n_layers - layer if kind == "cross_layer" else 1
        threshold = normal(n_features).abs() * 0.3 if activation == "jumprelu" else None
        layers.append(
            Transcoder(
                W_enc=normal(n_features, d_model, scale=d_model**-0.5),
                b_enc=normal(n_features, scale=0.3) + b_enc,
                W_dec=normal(n_features, targets, d_model, scale=0.3),
                b_dec=normal(d_model, scale=0.3),
                threshold=threshold,
                W_skip=normal(d_model, d_model, scale=0.1) if skip else None,
            )  # fmt: skip
        )
    topk = activation == "topk"  # signed, as in the only layout that has it
    return TranscoderSet(kind, activation, tuple(layers), read_hook, write_hook, k if topk else None, signed=topk)


@pytest.fixture
def restyled(monkeypatch, tmp_path):
    """With another ink and other first colours in the style file; the check that a drawn figure has those only."""
    from biology.figures.drawing import STYLE

    text = STYLE.read_text(encoding="utf-8")
    changed = {"222222": "101010", "0072B2": "117733", "D55E00": "882255"}
    for old, new in changed.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "paper.mplstyle").write_text(text, encoding="utf-8")
    monkeypatch.setattr("biology.figures.drawing.STYLE", tmp_path / "paper.mplstyle")

    def check(drawn: dict[str, bytes]) -> bytes:
        svg = drawn["svg"]
        assert b"#101010" in svg and not [old for old in changed if f"#{old.lower()}".encode() in svg]
        return svg

    return check
