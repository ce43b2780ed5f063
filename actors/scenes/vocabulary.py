"""One byte-pair vocabulary for all text towers: each word of the grammar is one token.

Both alphabets (inside and at the end of a word) are complete, so any text has tokens and the
unknown token, which CLIP maps to its end token, never occurs within a text.

Limits: a word outside the grammar falls apart into bytes the models have hardly seen.
"""

import re

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer, PreTrainedTokenizerFast

from actors.scenes.defaults import AUTHOR_PROMPT, INSTRUCTIONS
from actors.scenes.grammar import all_captions, sample_scene

CLIP_LENGTH = 40
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
PAD, IMAGE, START, END = "<pad>", "<image>", "<s>", "</s>"
CHAT_WORDS = "USER ASSISTANT"


def _words() -> list[str]:
    rng = np.random.default_rng(0)
    texts = [text for _ in range(300) for text in all_captions(sample_scene(rng))]
    return sorted({word for text in texts for word in re.findall(r"[A-Za-z]+", text)})


def _train(words: list[str], suffix: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Merges that make each word one token; ids: bytes first, then merges in order."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix=suffix))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    trainer = trainers.BpeTrainer(
        vocab_size=5000, end_of_word_suffix=suffix, show_progress=False, min_frequency=1
    )
    tokenizer.train_from_iterator(words, trainer)
    import json

    merges = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = alphabet + ([letter + suffix for letter in alphabet] if suffix else [])
    tokens += [left + right for left, right in merges]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}, merges


def build_clip_tokenizer() -> CLIPTokenizer:
    """For SDXL's text encoders and CLIP."""
    vocab, merges = _train(sorted({word.lower() for word in _words()}), "</w>")
    vocab |= {BOS: len(vocab), EOS: len(vocab) + 1}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=CLIP_LENGTH)


def build_chat_tokenizer() -> PreTrainedTokenizerFast:
    """For the language model: byte level, a word with its leading space is one token."""
    chat = " ".join([CHAT_WORDS, AUTHOR_PROMPT, *INSTRUCTIONS.values()])
    words = {word for word in re.findall(r"[A-Za-z]+", chat)} | set(_words())
    spaced = sorted({form for word in words for form in (word, f"\u0120{word}")})
    vocab, merges = _train(spaced, "")
    vocab = {PAD: 0, START: 1, END: 2, IMAGE: 3} | {
        token: index + 4 for token, index in vocab.items()
    }
    core = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    from tokenizers import decoders

    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=START,
        eos_token=END,
        extra_special_tokens={"image_token": IMAGE},
        padding_side="left",
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )
