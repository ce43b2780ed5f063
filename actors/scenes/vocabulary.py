"""One byte-pair vocabulary for all text towers: each word of the grammar is one token.

Both alphabets (inside and at the end of a word) are complete, so any text has tokens and the
unknown token, which CLIP maps to its end token, never occurs within a text.

Limits: a word outside the grammar falls apart into bytes the models have hardly seen.
"""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
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


def learn_merges(words: Sequence[str], suffix: str = "") -> list[tuple[str, str]]:
    """Byte-pair merges until each word is one token, ties broken by the alphabet.

    The trainer of the tokenizers library breaks ties differently from process to process: four
    words had other ids in each phase of a first training run.
    """
    split = [[*word[:-1], word[-1] + suffix] for word in sorted(set(words))]
    merges: list[tuple[str, str]] = []
    while counts := Counter(pair for parts in split for pair in pairwise(parts)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        split = [_merged(parts, best) for parts in split]
    return merges


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged


def _numbered(merges: list[tuple[str, str]], suffix: str) -> dict[str, int]:
    """Token ids: both byte alphabets first, then merges in order."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = alphabet + ([letter + suffix for letter in alphabet] if suffix else [])
    tokens += [left + right for left, right in merges]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}


def build_clip_tokenizer() -> CLIPTokenizer:
    """For SDXL's text encoders and CLIP."""
    merges = learn_merges([word.lower() for word in _words()], "</w>")
    vocab = _numbered(merges, "</w>")
    vocab |= {BOS: len(vocab), EOS: len(vocab) + 1}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=CLIP_LENGTH)


def build_chat_tokenizer() -> PreTrainedTokenizerFast:
    """For the language model: byte level, a word with its leading space is one token."""
    chat = " ".join([CHAT_WORDS, AUTHOR_PROMPT, *INSTRUCTIONS.values()])
    words = {word for word in re.findall(r"[A-Za-z]+", chat)} | set(_words())
    spaced = sorted({form for word in words for form in (word, f"\u0120{word}")})
    merges = learn_merges(spaced)
    vocab = {PAD: 0, START: 1, END: 2, IMAGE: 3} | {
        token: index + 4 for token, index in _numbered(merges, "").items()
    }
    core = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
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
