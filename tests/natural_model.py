"""A random Gemma 2 in miniature whose tokenizer splits English as a real one does: words in pieces, numbers in digits."""

from pathlib import Path

import torch
from miniatures import livened, write_transcoders


def write_natural_model(folder: Path, texts: list[str], n_vocab: int = 600) -> Path:
    """The tokenizer is a byte-pair encoding like Gemma's, learnt on `texts`: a space is a low block that begins a word."""
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
    trainer = trainers.BpeTrainer(vocab_size=n_vocab, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    n_vocab = tokenizer.get_vocab_size()
    torch.manual_seed(0)
    config = transformers.Gemma2Config(
        vocab_size=n_vocab, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, bos_token_id=2, eos_token_id=1, pad_token_id=0,
        query_pre_attn_scalar=8, sliding_window=8, attn_logit_softcapping=50.0, final_logit_softcapping=30.0,
    )  # fmt: skip
    network = transformers.AutoModelForCausalLM.from_config(config)
    livened(network).save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)
    return folder


def write_gemma_scope(folder: Path) -> Path:
    write_transcoders(folder, "gemma scope")
    return folder
