"""Turns English text into comparable features: words without endings, everyday synonyms folded together."""

import re
from functools import lru_cache
from itertools import pairwise

_WORD = re.compile(r"[a-z]+(?:['’][a-z]+)?")
_NEGATION = re.compile(r"n['’]t\b|(?<=can)not\b")
_CLAUSE_END = re.compile(r"[,.;:!?()]")
_PREFIX_LENGTH = 6

_STOP_WORDS = """
a about above after again all also although always am an and another any anybody anyone anything apparently are as
ask asked at be because been before being below but by can cannot could did do does done during each either else
etc even ever every everybody everyone everything few for from further get gets give gives given go goes going gone
got had has have having he hello her here hers hi him his how however i if in instead into is it its itself just
keep know let like many may me might mine more most much must my myself near need never no nobody none nor not
nothing now of off often on once one only or other our ours out over own per please put quite rather really said
same say says see she should since so some somebody someone something still such tell tells than thank thanks that
the their them then there these they thing this those though through to today told too under until up upon us very
want wants was we were what when where whether which while who whose why will with within without would yes yet
you your yours
answer answered answering answers apply applies belong belongs case categories category choose chosen class classes
classify consider cover covers customer customers decide decides example examples intent intents label labels mean means
mention mentioned mentions message messages output pick question questions refer refers reply respond right rule
rules select text typical use used user using word words write wrote
"""

# Words that say something only together with a neighbour: "not arrived", "how long", "never bought".
_LIGHT_WORDS = (
    "again another back down how in long more never no not nothing out someone still too up where who without"
)

# Groups of everyday English words that say nearly the same.
_SYNONYMS = (
    "shop store supermarket retailer merchant seller kiosk",
    "buy bought purchase sale",
    "goods item product",
    "money funds",
    "cash note banknote coin",
    "atm cashpoint dispenser",
    "reader terminal machine",
    "steal stole stolen theft thief rob robbed mugged snatched nicked pickpocket pickpocketed",
    "lose lost mislaid misplaced missing",
    "vanish vanished disappear disappeared",
    "purse wallet bag handbag",
    "post mail letter letterbox envelope postman",
    "ship shipping dispatch dispatched delivery deliver delivered",
    "arrive come came reach land",
    "wait awaiting",
    "late delay overdue slow",
    "refuse decline reject deny denied",
    "error failure",
    "broken break broke faulty damaged crack cracked",
    "wrong incorrect mistake",
    "double twice duplicate",
    "extra additional",
    "fee commission surcharge",
    "refund reimburse repay",
    "amount sum total price figure cost",
    "foreign abroad overseas international",
    "fake counterfeit",
    "send sent wire wired",
    "pay paid payment",
    "salary wage payday",
    "cancel abort void",
    "freeze frozen block lock",
    "recipient beneficiary payee",
    "unknown unfamiliar strange stranger unrecognised",
    "website online internet web",
    "subscription membership",
    "contest dispute challenge",
    "restaurant cafe waiter",
    "bill invoice receipt",
    "car vehicle taxi",
    "agree agreed promise promised",
    "begin start started began",
    "big large huge",
    "error bug glitch",
    "fix repair mend",
    "quick fast rapid",
    "happy glad pleased",
    "angry annoyed upset",
    "house home flat",
    "child kid children",
    "holiday trip vacation travelling",
    "job work employer",
    "phone mobile telephone",
    "picture photo image",
    "small little tiny",
)


def words(text: str) -> list[str]:
    """The lower-case words of `text` in order, possessives cut; numbers and signs are dropped."""
    return [word.partition("'")[0] if word.endswith("'s") else word for word in _WORD.findall(text.lower())]


def spelled_out(text: str) -> str:
    """The text in lower case, with `not` for every contraction of it."""
    return _NEGATION.sub(" not", text.lower().replace("can't", "cannot"))


def is_light(word: str) -> bool:
    """Whether the word says something only together with the one after it."""
    return word in _LIGHT


def _stem(word: str) -> str:
    for ending in ("ingly", "edly", "ing", "ed", "ies", "es", "s", "ly"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            word = word[: -len(ending)] + ("y" if ending == "ies" else "")
            break
    if len(word) > 4 and word[-1] == word[-2] and word[-1] not in "aeiousl":
        word = word[:-1]
    return word[:-1] if len(word) > 3 and word[-1] in "ey" else word


_STOPPED = frozenset(_STOP_WORDS.split())
_LIGHT = frozenset(_LIGHT_WORDS.split())
_CONCEPTS = {_stem(word)[:_PREFIX_LENGTH]: group.split()[0] for group in reversed(_SYNONYMS) for word in group.split()}


@lru_cache(maxsize=20_000)
def feature(word: str) -> str | None:
    """The comparable form of one lower-case word; None for a stop word, a contraction or a single letter."""
    if len(word) < 2 or word in _STOPPED or "'" in word or "’" in word:
        return None
    root = _stem(word)[:_PREFIX_LENGTH]
    return _CONCEPTS.get(root, root)


@lru_cache(maxsize=20_000)
def features(text: str) -> tuple[str, ...]:
    """The distinct features of `text` in order of appearance: single words, then pairs of neighbours joined by a blank.

    Neighbours stand in one clause with nothing but stop words between them.
    """
    singles: list[str] = []
    pairs: list[str] = []
    for clause in _CLAUSE_END.split(text):
        found = [(word if is_light(word) else feature(word)) for word in words(spelled_out(clause))]
        known = [one for one in found if one is not None]
        singles += [one for one in known if one not in _LIGHT]
        pairs += [f"{left} {right}" for left, right in pairwise(known) if left != right]
    return tuple(dict.fromkeys([*singles, *pairs]))
