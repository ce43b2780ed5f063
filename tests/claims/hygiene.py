"""Claim 24: the rules of caption hygiene find faulty captions and leave clean ones alone.

    python tests/claims/hygiene.py [--run-seeds 3]

Two sets. The labelled one (`tests/actors/hygiene_set.jsonl`) was written before the rules, which
then saw its `dev` part alone; judged here by the held-out one. Because one author wrote it, a
second set is generated: clean captions of the embedded world and of the labelled set, and the same
with an echo of the instruction, a loop or a hedge put in at random.

Limits: the wordings of doubt (hedges.txt) are not unseen any more. Of the first 30 the rules found
.59 when they were first tried, though .99 of the held-out labels: a set and rules of one hand
flatter each other. The rules were widened, and then found 29 of 31 further wordings at first sight
(.94; 95 %: .79 to .98), which is what to expect of the next ones. They were widened for those too.
Real captions that are clean are those of the labelled set, alone and two together, so run seeds
share them.
"""

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from claims import Check, Claim, main, wilson

from actors.caption_hygiene import HygieneConfig, find_flags
from actors.prompts import INSTRUCTIONS
from actors.scenes.grammar import sample_caption, sample_scene

SET = ROOT / "tests" / "actors" / "hygiene_set.jsonl"
CLAIM = Claim(
    title="Claim 24: recall of faulty captions >= 95 %, false positives <= 2 %",
    tested="the held-out labelled captions, and clean ones with faults put in at random",
)
NUM_CAPTIONS = 300  # clean ones a run seed; each also with one fault of every kind
QUESTIONS = [one.text for name, one in INSTRUCTIONS.items() if name.startswith("describe")]
HEDGES = (HERE / "hedges.txt").read_text().splitlines()
PREAMBLES = (
    "Sure! {}",
    "Sure, here is a description of the image: {}",
    "Here is the caption: {}",
    "Of course. {}",
    "Caption: {}",
    "Answer: {}",
    "ASSISTANT: {}",
    "Here's a one-sentence description: {}",
    "As you requested: {}",
    "{} I hope this helps!",
    "{} Let me know if you need more detail.",
    "You asked me to describe the image: {}",
)


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:].rstrip(".")


def put_echo(text: str, question: str, rng: np.random.Generator) -> str:
    """The instruction before or after the caption, its later half before it (of a short one all),
    or an assistant's phrase around it."""
    words = question.split()
    half = " ".join(words[-max(6, len(words) // 2) :])
    preamble = str(rng.choice(PREAMBLES))
    frame = ("{} {}", "{1} {0}", f"{half} {{1}}", preamble.replace("{}", "{1}"))[rng.integers(4)]
    return frame.format(question, text)


def put_loop(text: str, question: str, rng: np.random.Generator) -> str:
    """Some words of the caption, or all, three to eight times: bare or after `and`, in the middle
    or without an end."""
    words = text.split()
    size = len(words) if rng.random() < 0.25 else int(rng.integers(1, 1 + min(8, len(words))))
    at = int(rng.integers(0, len(words) - size + 1))
    joint = ["and"] if rng.random() < 0.5 else []
    loop = (joint + words[at : at + size]) * int(rng.integers(3, 9))
    return " ".join(words[:at] + loop + ([] if rng.random() < 0.5 else words[at + size :]))


def put_hedge(text: str, question: str, rng: np.random.Generator) -> str:
    """The caption in one of the wordings of doubt."""
    said = str(rng.choice(HEDGES)).format(_lowered(text))
    return said[:1].upper() + said[1:] + "."


FAULTS = {"instruction_echo": put_echo, "repetition": put_loop, "hedging": put_hedge}


def clean_captions(rng: np.random.Generator, real: list[str]) -> list[str]:
    """A third each: of the embedded world, real ones, two real ones together."""
    world = [sample_caption(sample_scene(rng), rng) for _ in range(NUM_CAPTIONS // 3)]
    alone = [str(one) for one in rng.choice(real, NUM_CAPTIONS // 3)]
    pairs = [" ".join(rng.choice(real, 2, replace=False)) for _ in range(NUM_CAPTIONS // 3)]
    return world + alone + pairs


def judge_labelled() -> list[Check]:
    """The held-out part of the labelled set."""
    rows = [json.loads(line) for line in SET.read_text().splitlines()]
    rows = [row for row in rows if row["part"] == "held_out"]
    found = [
        set(find_flags(row["text"], INSTRUCTIONS[row["instruction_id"]].text, HygieneConfig()))
        for row in rows
    ]
    num_labels = sum(len(row["flags"]) for row in rows)
    num_hits = sum(len(one & set(row["flags"])) for one, row in zip(found, rows, strict=True))
    clean = [one for one, row in zip(found, rows, strict=True) if not row["flags"]]
    recall = wilson(num_hits, num_labels)
    false = wilson(sum(map(bool, clean)), len(clean))
    return [
        Check(
            what=f"recall of {num_labels} held-out labels",
            predicted="83 of 84",
            measured=recall,
            goal=">= .95",
            holds=recall.value >= 0.95,
        ),
        Check(
            what=f"false positives of {len(clean)} held-out clean captions",
            predicted="0 or 1",
            measured=false,
            goal="<= .02",
            holds=false.value <= 0.02,
        ),
    ]


def judge_generated(run_seed: int) -> Counter[str]:
    """How many of the faulty captions of each kind are found, and how many clean ones flagged."""
    rng = np.random.default_rng([run_seed, 24])
    rows = [json.loads(line) for line in SET.read_text().splitlines()]
    real = [row["text"] for row in rows if not row["flags"]]
    hits: Counter[str] = Counter()
    for text in clean_captions(rng, real):
        question = str(rng.choice(QUESTIONS))
        hits["clean"] += bool(find_flags(text, question, HygieneConfig()))
        for flag, put in FAULTS.items():
            hits[flag] += flag in find_flags(put(text, question, rng), question, HygieneConfig())
    return hits


def measure(run_seeds: range) -> list[Check]:
    checks = judge_labelled()
    hits = sum((judge_generated(run_seed) for run_seed in run_seeds), Counter[str]())
    number = NUM_CAPTIONS * len(run_seeds)
    for flag in FAULTS:
        recall = wilson(hits[flag], number)
        missed = "; the rules had .59 before" if flag == "hedging" else ""
        checks.append(
            Check(
                what=f"recall of {flag}, put into {number} captions",
                predicted=f">= .97{missed}",
                measured=recall,
                goal=">= .95",
                holds=recall.value >= 0.95,
            )
        )
    false = wilson(hits["clean"], number)
    checks.append(
        Check(
            what=f"false positives of the same {number} without a fault",
            predicted="0",
            measured=false,
            goal="<= .02",
            holds=false.value <= 0.02,
        )
    )
    return checks


if __name__ == "__main__":
    sys.exit(main(CLAIM, measure))
