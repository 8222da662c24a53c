"""Random models in miniature whose tokenizer splits English as a real one does: words in pieces, numbers in digits."""

from pathlib import Path

import torch
from miniatures import livened, write_transcoders


def natural_tokenizer(texts: list[str], n_vocab: int):
    """A byte-pair encoding like Gemma's, learnt on `texts`: a space is a low block that begins a word."""
    import transformers
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("▁?[^▁]+"), "isolated"),
            pre_tokenizers.Split(Regex(r"[\n,:]"), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    tokenizer.decoder = decoders.Replace("▁", " ")
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=n_vocab, special_tokens=special, show_progress=False)
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )


def write_natural_model(folder: Path, texts: list[str], n_vocab: int = 600) -> Path:
    """A Gemma 2."""
    import transformers

    tokenizer = natural_tokenizer(texts, n_vocab)
    n_vocab = len(tokenizer)
    torch.manual_seed(0)
    config = transformers.Gemma2Config(
        vocab_size=n_vocab, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, bos_token_id=2, eos_token_id=1, pad_token_id=0,
        query_pre_attn_scalar=8, sliding_window=8, attn_logit_softcapping=50.0, final_logit_softcapping=30.0,
    )  # fmt: skip
    network = transformers.AutoModelForCausalLM.from_config(config)
    livened(network).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_small_llama(folder: Path, texts: list[str]) -> Path:
    """A Llama as wide as SmolLM2-135M with two of its layers, in its place where there is no network (.ci/run)."""
    import transformers

    tokenizer = natural_tokenizer(texts, 1000)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=576, intermediate_size=1536, num_hidden_layers=2, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=2, eos_token_id=1,
        pad_token_id=0,
    )  # fmt: skip
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_gemma_scope(folder: Path) -> Path:
    write_transcoders(folder, "gemma scope")
    return folder
