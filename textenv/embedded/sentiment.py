"""Reviews: the documents of the sentiment task, and the phrases whose sentiment is known.

The marked slots are `praise…` and `blame…`: "very good", "not bad", "really enjoyed", "not like" (of "I did not like"),
each one span. A mood sets how often sentences praise, blame, do both around a "but", or stay neutral.
"""

from __future__ import annotations

from textenv.embedded.notation import Genre, rule

MARKS = {
    "praise": (1.0, "positive"),
    "praise_attribute": (1.0, "positive"),
    "praise_done": (1.0, "positive"),
    "praise_do": (1.0, "positive"),
    "praise_effect": (1.0, "positive"),
    "blame": (-1.0, "negative"),
    "blame_attribute": (-1.0, "negative"),
    "blame_done": (-1.0, "negative"),
    "blame_do": (-1.0, "negative"),
    "blame_effect": (-1.0, "negative"),
}

_PRAISE = "{praise_attribute}"
RULES = {
    # what is marked
    "praise": rule("10 {good}", "4 {strong} {good}", "1.5 {mild} {good}", "3 {negation} {bad}", "not {strong} {bad}"),
    "blame": rule("10 {bad}", "4 {strong} {bad}", "1.5 {mild} {bad}", "3 {negation} {good}", "not {strong} {good}"),
    "praise_attribute": rule("4 {good}", "{strong} {good}"),
    "blame_attribute": rule("4 {bad}", "{strong} {bad}"),
    "praise_done": rule("4 {good_done}", "{strong} {good_done}"),
    "blame_done": rule("4 {bad_done}", "{strong} {bad_done}"),
    "praise_do": rule("not {bad_do}"),
    "blame_do": rule("not {good_do}"),
    "praise_effect": rule("4 {good_effect}", "{strong} {good_effect}"),
    "blame_effect": rule("4 {bad_effect}", "{strong} {bad_effect}"),
    # what stands around it
    "who": rule("4 I", "2 we", "my {relative}", "{name}"),
    "when": rule("3 last {period}", "2 yesterday", "{number} {span} ago", "on {day}", "in {month}"),
    "with_whom": rule("with my {relative}", "with {name}"),
    "review_opening": rule(
        "4 {who} {did} this {thing} {when}.",
        "2 {who} {did} this {thing} {with_whom}.",
        "{who} {did} this {thing} in {city}.",
        "This was my {ordinal} {thing} in {city}.",
        "This {neutral} {thing} is near the {place}.",
    ),
    "review_neutral": rule(
        "3 The {part} came from {city}.",
        "2 The {role} {done} the {part} {when}.",
        "2 The {role} {done} the {part}, and {who} {done} the {part}.",
        "2 We met the {role} near the {place}.",
        "2 The {thing} has a {neutral} {part}.",
        "The {part} is near the {neutral} {part}.",
        "It took {number} {span} to {do} the {part}.",
        "My {relative} asked the {role} about the {part}.",
        "{name} {done} the {neutral} {part} {when}.",
    ),
    "review_praise": rule(
        "5 The {part} was {praise}.",
        "2 The {part} and the {part} were {praise}.",
        "2 The {part} was {praise}, and the {part} was {praise}.",
        "2 {who} {praise_done} the {part}.",
        "{who} did {praise_do} the {part}.",
        "The {part} {praise_effect} me.",
        "The {role} was {praise}.",
        "It is a {praise_attribute} {thing}.",
        "Overall, it was a {praise_attribute} {thing}.",
        "What a {praise_attribute} {thing}!",
        "{name} found the {part} {praise_attribute}.",
        "The {role} had a {praise_attribute} {part}.",
    ),
    "review_blame": rule(
        "5 The {part} was {blame}.",
        "2 The {part} and the {part} were {blame}.",
        "2 The {part} was {blame}, and the {part} was {blame}.",
        "2 {who} {blame_done} the {part}.",
        "{who} did {blame_do} the {part}.",
        "The {part} {blame_effect} me.",
        "The {role} was {blame}.",
        "It is a {blame_attribute} {thing}.",
        "Overall, it was a {blame_attribute} {thing}.",
        "What a {blame_attribute} {thing}!",
        "{name} found the {part} {blame_attribute}.",
        "The {role} had a {blame_attribute} {part}.",
    ),
    "review_praise_but": rule(
        "2 The {part} was {blame}, but the {part} was {praise}.",
        "The {role} was {blame}, but {who} {praise_done} the {part}.",
    ),
    "review_blame_but": rule(
        "2 The {part} was {praise}, but the {part} was {blame}.",
        "The {role} was {praise}, but {who} {blame_done} the {part}.",
    ),
}


def _mood(praise: float, blame: float, praise_but: float, blame_but: float) -> dict[str, float]:
    shares = {"review_praise": praise, "review_blame": blame}
    shares |= {"review_praise_but": praise_but, "review_blame_but": blame_but}
    return {"review_neutral": 1 - sum(shares.values()), **shares}


GENRE = Genre(
    "sentiment",
    opening="review_opening",
    rules=RULES,
    moods={
        "pleased": (0.36, _mood(0.48, 0.05, 0.08, 0.03)),
        "displeased": (0.40, _mood(0.05, 0.48, 0.03, 0.08)),
        "torn": (0.24, _mood(0.20, 0.20, 0.12, 0.12)),
    },
)
