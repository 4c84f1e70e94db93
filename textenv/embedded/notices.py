"""How the embedded notices are worded: their opening, what will happen (key), what has been (side).

A notice is about one thing of one domain. Key facts are about it; a side fact is about one of its parts, or about a visit. A
summary has ways of its own to say a key fact, in the present ("moves to London"), and none for a side fact.
"""

from __future__ import annotations

from textenv.embedded import lexicon
from textenv.embedded.domains import DOMAINS
from textenv.embedded.facts import Relation

__all__ = ["KEY", "NOUNS", "OPENINGS", "SIDE", "SIZES"]

COLOUR = "red blue green yellow grey brown white black"
SIZES = {"key": (2, 3), "side": (2, 4)}

NOUNS = {kind: frozenset(w for d in DOMAINS.values() for w in d[kind].split()) for kind in ("thing", "part", "role", "place")}
_PARTS = NOUNS["part"]

OPENINGS = (
    "Here is a note about the {neutral} {thing} near the {place}.",
    "There is news about the {thing} near the {place}.",
    "This note is about the {neutral} {thing}.",
)
KEY = (
    Relation(
        "place",
        tuple(lexicon.CITY.split()),
        told=("{Subject} will move to {value}", "{Subject} will go to {value}", "The new home of the {thing} will be {value}"),
        said=("moves to {value}", "goes to {value}"),
        read=(r"(?:move|moves|go|goes) to {value}", r"new home of the \w+ will be {value}"),
    ),
    Relation(
        "day",
        tuple(lexicon.DAY.split()),
        told=("{Subject} will open on {value}", "{Subject} will start on {value}", "The first day of the {thing} will be {value}"),
        said=("opens on {value}", "starts on {value}"),
        read=(r"(?:open|opens|start|starts) on {value}", r"first day of the \w+ will be {value}"),
    ),
    Relation(
        "price",
        tuple(lexicon.NUMBER.split()),
        told=("{Subject} will cost {value} euros", "The new price of the {thing} will be {value} euros"),
        said=("costs {value} euros",),
        read=(r"costs? {value}", r"new price of the \w+ will be {value}"),
    ),
    Relation(
        "head",
        tuple(lexicon.NAME.split()),
        told=("{Subject} will be led by {value}", "{value} will lead the {thing}", "The new head of the {thing} will be {value}"),
        said=("is led by {value}", "is run by {value}"),
        read=(r"(?:led|run) by {value}", r"{value} will lead", r"new head of the \w+ will be {value}"),
    ),
    Relation(
        "month",
        tuple(lexicon.MONTH.split()),
        told=("{Subject} will close in {value}", "{Subject} will end in {value}"),
        said=("closes in {value}", "ends in {value}"),
        read=(r"(?:close|closes|end|ends) in {value}",),
    ),
)
SIDE = (
    Relation(
        "colour",
        tuple(COLOUR.split()),
        told=("The <{entity} was painted {value}>", "Somebody <painted the {entity} {value}>"),
        read=(r"{entity} was painted {value}", r"painted the {entity} {value}"),
        entities=_PARTS,
    ),
    Relation(
        "origin",
        tuple(lexicon.CITY.split()),
        told=("The <{entity} came from {value}>", "Somebody <brought the {entity} from {value}>"),
        read=(r"{entity} came from {value}", r"brought the {entity} from {value}"),
        entities=_PARTS,
    ),
    Relation(
        "picture",
        tuple(lexicon.NAME.split()),
        told=("<{value} photographed the {entity}>", "The <{entity} was photographed by {value}>"),
        read=(r"{value} photographed the {entity}", r"{entity} was photographed by {value}"),
        entities=_PARTS,
    ),
    Relation(
        "cleaning",
        tuple(lexicon.PERIOD.split()),
        told=("The {role} <cleaned the {entity} last {value}>", "<Last {value} the {role} cleaned the {entity}>"),
        read=(r"cleaned the {entity} last {value}", r"last {value} the \w+ cleaned the {entity}"),
        entities=_PARTS,
    ),
    Relation(
        "company",
        tuple(lexicon.RELATIVE.split()),
        told=("I {did} the {thing} <with my {value}>", "<My {value} was there>"),
        read=(r"with my {value}", r"my {value} was there"),
    ),
    Relation(
        "time",
        tuple(lexicon.NUMBER.split()),
        told=("<It took {value} hours to check the {entity}>", "The {role} <needed {value} hours for the {entity}>"),
        read=(r"it took {value} hours to check the {entity}", r"needed {value} hours for the {entity}"),
        entities=_PARTS,
    ),
)
