"""Rules for text that comes from a model or a stranger: what is an address, code, or an order to
the next model is found, named and counted, never obeyed.

Captions are data. One that says "ignore previous instructions" would go into the next round's
prompt, and later into somebody's training set; a template token would be read by a tokenizer as the
end of the prompt. `find_rule` looks at a copy of the text in which full-width letters, accents,
zero-width characters and case make no difference; the text itself is not changed.
Limits: English orders only, as patterns and not by meaning: another wording or language, look-alike
letters of another script (a Cyrillic a) and spelled out addresses ("dot com") pass. A text that
quotes such an order is refused like one that gives it.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Final

# Part of a run's fingerprint: another set of rules makes other rows.
TEXT_RULES_ID: Final = "text-rules-v1"

_MEDIA = "image|img|video|audio|pad|unk|bos|eos|mask|box|ref|quad|think|tool_call|tool_response"
_TEMPLATE_TOKEN = rf"""
    <\|[^<>|\n]{{1,40}}\|>                      # <|im_start|>, <|endoftext|>, <|eot_id|>
  | \[/?(?:inst|tool_calls|available_tools|tool_results|system_prompt|img|img_break|img_end)\]
  | <</?sys>> | </?s>
  | </?(?:{_MEDIA})(?:[_ ]?(?:\d{{1,4}}|pad|start|end|patch|token|soft_token))?>
  | <(?:start|end)_of_(?:turn|image|text|utterance|role)>
  | <(?:fake_token_around_image|row_\d+_col_\d+|global-img|vision_(?:start|end|pad))>
"""
# What is dropped has to be said to come from before, or to be the model's own: "a man ignoring the
# previous speaker" and "she ignores the instructions on the box" are scenes.
_DROP = r"(?:ignore|disregard|forget|override|bypass)"
_DROPPING = rf"(?:{_DROP}|ignoring|disregarding|forgetting|overriding|bypassing)"
_ANY = r"(?:all|any|the|these|those|your|my|our|of|every|each|other|and|or|prior|previous)"
_BEFORE = r"(?:previous|prior|above|earlier|preceding|foregoing|original|initial|system)"
_ORDERS = r"(?:instructions?|prompts?|directives?|guidelines?|rules?)"
_SAID = r"(?:commands?|directions?|orders?|text|context|messages?|conversation)"
_MODEL = r"(?:ai|chatbot|language\smodel|dan)"
_OVERRIDE = rf"""
    \b{_DROPPING}\s(?:{_ANY}\s){{0,4}}{_BEFORE}\s(?:\w{{1,20}}\s){{0,2}}{_ORDERS}\b
  | \b{_DROPPING}\s(?:all|any)\s(?:{_ANY}\s){{0,3}}{_BEFORE}\s{_SAID}\b
  | \b{_DROP}\s(?:{_ANY}\s){{0,4}}(?:\w{{1,20}}\s)?{_ORDERS}\s(?:
        (?:given\s)?(?:above|before|earlier|so\sfar)(?=$|\s?[.,;:!?]|\s(?:and|then)\b)
      | (?:that\s)?you\s(?:were|have\sbeen|had|got)\b )
  | \b(?:ignore|disregard|override|bypass)\syour\s(?:\w{{1,20}}\s)?
      (?:{_ORDERS}|training|programming|safety)\b
  | \b{_DROP}\s(?:all\s)?(?:of\s)?(?:the|this)\s(?:above|foregoing)\b(?!-)
  | \b{_DROP}\s(?:everything|anything|all|what)\s(?:that\s)?(?:(?:is|was|came)\s)?
      (?:above|before\sthis|(?:i|we|they)\s(?:said|told)|you\s(?:were|have\sbeen)\stold)\b
  | (?:^|[.!?:;,"'*]\s?)(?:please\s)?{_DROP}\s(?:all|any)\s(?:\w{{1,20}}\s)?
      (?:instructions|prompts|directives)\b
  | \byou\sare\s(?:now|no\slonger)\san?\s(?:\w{{1,20}}\s){{0,2}}(?:{_MODEL}|assistant|bot)\b
  | \byou\sare\snow\s(?:in\s)?(?:dan|jailbroken|unrestricted|(?:developer|god|debug)\smode)\b
  | \byou\sare\sno\slonger\s(?:bound|restricted|limited)\b
  | \b(?:act|behave|respond|pretend\sto\sbe|pretend\s(?:that\s)?you\sare)\s(?:as\s)?(?:an?\s)?
      (?:\w{{1,20}}\s)?{_MODEL}\b
  | \b(?:reveal|print|show|output|repeat|leak|give|tell)\s(?:me\s|us\s)?(?:the|your)\s
      (?:\w{{1,20}}\s)?(?:system|hidden|initial|secret)\s(?:prompt|instructions?|message)\b
  | \b(?:respond|reply|answer)\s(?:only\s with|with\s (?:only|nothing\sbut))\b
  | \b(?:instead\sof|do\snot|don.?t|stop)\s(?:describe|describing|caption|captioning)\s
      (?:the|this|it|any)\b
  | \b(?:new|updated|real|actual)\s(?:system\s)?(?:instructions?|prompts?)\s?:
  | \bfrom\snow\son,?\syou\s(?:will|must|shall|should|are)\b
  | \b(?:do\sanything\snow|jailbreak\smode|developer\smode\s(?:on|enabled))\b
"""
_ROLE_HEADER = r"""
    ^[\s#*>-]{0,8}(?:system|assistant|user|human|ai|developer)[\s*]{0,3}:
  | ^[\s#*>-]{0,8}(?:system|assistant|user|human|developer)\s?$
  | ^[\s]{0,8}\#{2,4}\s?(?:instruction|response|input|system|assistant|user)s?\b
"""
_URL = r"""
    \b[a-z][a-z0-9+.-]{1,15}://\S | \bwww\d?\.[a-z0-9-]{1,63}\.[a-z] | \b(?:javascript|vbscript):\S
  | \bdata:[a-z]{2,20}/[a-z0-9.+-]{1,40}[;,] | \bmailto:\S
  | [a-z0-9]\.(?:com|org|net|io|info|biz|dev|app|co|ru|cn|de|uk|xyz|ly|me)/[\w~?#]
"""
_EMAIL = r"\w@(?:[\w-]{1,63}\.){1,4}[a-z]{2}"
_CODE = r"""
    ``` | ~~~ | <\s?/?(?:script|iframe|object|embed|svg|style|meta)\b | <img\s
  | <\?(?:php|xml)\b | \bon(?:error|load)\s?=
"""

_RULES: Final[dict[str, re.Pattern[str]]] = {
    name: re.compile(pattern, re.VERBOSE | re.MULTILINE)
    for name, pattern in (
        ("template_token", _TEMPLATE_TOKEN),
        ("override", _OVERRIDE),
        ("role_header", _ROLE_HEADER),
        ("url", _URL),
        ("email", _EMAIL),
        ("code", _CODE),
    )
}
# For a user's own seeds: a sign with an address on it is a scene like any other.
SEED_RULES: Final = ("template_token", "override")


def find_rule(text: str, names: Sequence[str] = tuple(_RULES)) -> str | None:
    """The first rule of `names` that `text` breaks, or None."""
    seen = _fold(text)
    return next((name for name in names if _RULES[name].search(seen)), None)


def _fold(text: str) -> str:
    """The text as a reader sees it, in plain letters: lines kept, other white space made one
    space, what cannot be seen left out.
    """
    lines = unicodedata.normalize("NFKD", text).splitlines()
    kept = (
        "".join(" " if char.isspace() else char for char in line if _is_visible(char))
        for line in lines
    )
    return "\n".join(" ".join(line.split()) for line in kept if line.strip()).casefold()


def _is_visible(char: str) -> bool:
    # Category M: accents, which NFKD took off their letters, and variation selectors.
    return char.isspace() or unicodedata.category(char)[0] not in "CM"
