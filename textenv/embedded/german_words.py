"""The words of the translation world: English beside German, with all that inflection needs. Written for this project.

A noun knows its gender and both plurals, a verb its irregular forms, its auxiliary and what may stand with it. Left out on
purpose: nouns whose German plural equals the singular ("Lehrer"), words that are spelt alike in both languages, and "they"
(German "sie" is "she" already), so that every form of the German text says what it is.

A `sort` is what a noun stands for; verbs and adjectives list the sorts that they go with.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ADJECTIVES", "ADVERBIALS", "CONJUNCTIONS", "NOUNS", "VERBS", "Adjective", "Adverbial", "Noun", "Verb"]


@dataclass(frozen=True)
class Noun:
    """A noun; `english` is its key."""

    english: str
    english_plural: str
    german: str
    gender: str  # "m", "f", "n"
    german_plural: str
    sort: str

    @property
    def german_dative_plural(self) -> str:
        """Mit den Kindern: -n, unless the plural ends in n or s."""
        return self.german_plural + ("" if self.german_plural[-1] in "ns" else "n")


@dataclass(frozen=True)
class Verb:
    """A verb; `english` is its key ("pick up" has two words)."""

    english: str
    past: str
    progressive: str  # empty: a state, "is knowing" is not said
    prefix: str  # of a separable verb: "ab" of "abholen"
    infinitive: str  # without the prefix
    second: str  # du ...
    third: str  # er ...
    participle: str
    auxiliary: str  # "have", "be"
    frame: str  # what stands with it: a key of synchronous.FRAMES
    subjects: tuple[str, ...]
    objects: tuple[str, ...]


@dataclass(frozen=True)
class Adjective:
    """An adjective; `stem` stands before an ending ("teur" of "teuer")."""

    english: str
    german: str
    stem: str
    sorts: tuple[str, ...]


@dataclass(frozen=True)
class Adverbial:
    """An adverbial of time.

    Attributes:
        german: with "im", "am" written out.
        place: "end" of the English sentence (it may be fronted), or "verb": before the English verb.
        tenses: the English tenses that it goes with.
    """

    english: str
    german: str
    place: str
    tenses: tuple[str, ...]


_NOUNS = {
    "person": """
        man men Mann m Männer; woman women Frau f Frauen; child children Kind n Kinder; friend friends Freund m Freunde
        sister sisters Schwester f Schwestern; brother brothers Bruder m Brüder; daughter daughters Tochter f Töchter
        son sons Sohn m Söhne; aunt aunts Tante f Tanten; doctor doctors Arzt m Ärzte; guest guests Gast m Gäste
        king kings König m Könige; queen queens Königin f Königinnen; cook cooks Koch m Köche""",
    "animal": """
        dog dogs Hund m Hunde; cat cats Katze f Katzen; horse horses Pferd n Pferde; bird birds Vogel m Vögel
        cow cows Kuh f Kühe""",
    "text": "book books Buch n Bücher; letter letters Brief m Briefe; newspaper newspapers Zeitung f Zeitungen",
    "food": """
        apple apples Apfel m Äpfel; egg eggs Ei n Eier; soup soups Suppe f Suppen; potato potatoes Kartoffel f Kartoffeln
        sausage sausages Wurst f Würste""",
    "vehicle": "car cars Auto n Autos; bicycle bicycles Fahrrad n Fahrräder; ship ships Schiff n Schiffe",
    "cloth": "coat coats Mantel m Mäntel; dress dresses Kleid n Kleider; shirt shirts Hemd n Hemden",
    "thing": """
        bag bags Tasche f Taschen; lamp lamps Lampe f Lampen; picture pictures Bild n Bilder; clock clocks Uhr f Uhren
        pot pots Topf m Töpfe; glass glasses Glas n Gläser""",
    "door": "door doors Tür f Türen; box boxes Kiste f Kisten; cupboard cupboards Schrank m Schränke",
    "building": """
        house houses Haus n Häuser; school schools Schule f Schulen; church churches Kirche f Kirchen
        shop shops Laden m Läden""",
    "area": """
        garden gardens Garten m Gärten; kitchen kitchens Küche f Küchen; city cities Stadt f Städte
        village villages Dorf n Dörfer; forest forests Wald m Wälder""",
    "surface": "table tables Tisch m Tische; bed beds Bett n Betten; chair chairs Stuhl m Stühle; bench benches Bank f Bänke",
}
_GOODS = "text food vehicle cloth thing"
_VERBS = f"""
    buy bought buying | kaufen kaufst kauft gekauft have | accusative | person | {_GOODS} building
    sell sold selling | verkaufen verkaufst verkauft verkauft have | accusative | person | {_GOODS} building animal
    look_for looked_for looking_for | suchen suchst sucht gesucht have | accusative | person animal | {_GOODS} person animal
    find found finding | finden findest findet gefunden have | accusative | person animal | {_GOODS} person animal
    see saw - | sehen siehst sieht gesehen have | accusative | person animal | {_GOODS} person animal building
    love loved - | lieben liebst liebt geliebt have | accusative | person animal | person animal food
    need needed - | brauchen brauchst braucht gebraucht have | accusative | person | {_GOODS} person
    visit visited visiting | besuchen besuchst besucht besucht have | accusative | person | person area
    paint painted painting | malen malst malt gemalt have | accusative | person | person animal vehicle building area
    carry carried carrying | tragen trägst trägt getragen have | accusative | person | thing cloth food text
    lose lost losing | verlieren verlierst verliert verloren have | accusative | person | thing cloth text
    repair repaired repairing | reparieren reparierst repariert repariert have | accusative | person | vehicle door
    read read reading | lesen liest liest gelesen have | accusative | person | text
    write wrote writing | schreiben schreibst schreibt geschrieben have | accusative | person | text
    eat ate eating | essen isst isst gegessen have | accusative | person animal | food
    wash washed washing | waschen wäschst wäscht gewaschen have | accusative | person | vehicle cloth thing animal
    call called calling | an+rufen rufst ruft angerufen have | accusative | person | person
    invite invited inviting | ein+laden lädst lädt eingeladen have | accusative | person | person
    pick_up picked_up picking_up | ab+holen holst holt abgeholt have | accusative | person | person
    open opened opening | auf+machen machst macht aufgemacht have | accusative | person | door
    close closed closing | zu+machen machst macht zugemacht have | accusative | person | door
    throw_away threw_away throwing_away | weg+werfen wirfst wirft weggeworfen have | accusative | person | {_GOODS}
    sleep slept sleeping | schlafen schläfst schläft geschlafen have | intransitive | person animal |
    work worked working | arbeiten arbeitest arbeitet gearbeitet have | intransitive | person |
    laugh laughed laughing | lachen lachst lacht gelacht have | intransitive | person |
    sing sang singing | singen singst singt gesungen have | intransitive | person animal |
    get_up got_up getting_up | auf+stehen stehst steht aufgestanden be | intransitive | person |
    arrive arrived arriving | an+kommen kommst kommt angekommen be | intransitive | person |
    come_back came_back coming_back | zurück+kommen kommst kommt zurückgekommen be | intransitive | person animal |
    fall_asleep fell_asleep falling_asleep | ein+schlafen schläfst schläft eingeschlafen be | intransitive | person animal |
    play played playing | spielen spielst spielt gespielt have | companion | person animal | person animal
    dance danced dancing | tanzen tanzt tanzt getanzt have | companion | person | person
    talk talked talking | sprechen sprichst spricht gesprochen have | companion | person | person
    help helped helping | helfen hilfst hilft geholfen have | dative | person | person animal
    thank thanked thanking | danken dankst dankt gedankt have | dative | person | person
    follow followed following | folgen folgst folgt gefolgt be | dative | person animal | person animal
    give gave giving | geben gibst gibt gegeben have | ditransitive | person | {_GOODS}
    show showed showing | zeigen zeigst zeigt gezeigt have | ditransitive | person | {_GOODS} building
    send sent sending | schicken schickst schickt geschickt have | ditransitive | person | text thing cloth
    lend lent lending | leihen leihst leiht geliehen have | ditransitive | person | vehicle cloth thing text
    go went going | gehen gehst geht gegangen be | direction | person animal | building area
    run ran running | laufen läufst läuft gelaufen be | direction | person animal | building area
    drive drove driving | fahren fährst fährt gefahren be | direction | person | area
    live lived living | wohnen wohnst wohnt gewohnt have | place | person | building area
    stand stood standing | stehen stehst steht gestanden have | place | person animal vehicle | building area
    sit sat sitting | sitzen sitzt sitzt gesessen have | place | person animal | building area surface
    lie lay lying | liegen liegst liegt gelegen have | place | animal text cloth thing | surface
    put put putting | legen legst legt gelegt have | put | person | text cloth
    say said - | sagen sagst sagt gesagt have | that | person |
    believe believed - | glauben glaubst glaubt geglaubt have | that | person |
    know knew - | wissen weißt weiß gewusst have | that | person |
    hope hoped - | hoffen hoffst hofft gehofft have | that | person |
    be was - | sein bist ist gewesen be | copula | |
    rain rained raining | regnen regnest regnet geregnet have | weather | |
    snow snowed snowing | schneien schneist schneit geschneit have | weather | |
"""
_ADJECTIVES = f"""
    old alt - | person animal {_GOODS} door building area surface
    young jung - | person animal
    new neu - | text vehicle cloth thing door building surface
    small klein - | person animal {_GOODS} door building area surface
    big groß - | animal {_GOODS} door building area surface
    beautiful schön - | person animal {_GOODS} door building area surface
    expensive teuer teur | food vehicle cloth thing
    cheap billig - | food vehicle cloth thing
    tired müde müd | person animal
    hungry hungrig - | person animal
    friendly freundlich - | person animal
    clever klug - | person animal
    rich reich - | person
    sick krank - | person animal
    red rot - | vehicle cloth thing door surface
    green grün - | vehicle cloth thing door surface
    black schwarz - | animal vehicle cloth thing door surface
    heavy schwer - | text thing door surface
    long lang - | text
    dirty schmutzig - | vehicle cloth thing surface
    quiet ruhig - | person animal building area
"""
_ADVERBIALS = """
    often | oft | verb | simple
    always | immer | verb | simple
    sometimes | manchmal | end | simple
    every day | jeden Tag | end | simple past modal
    in the evening | an dem Abend | end | simple past modal
    today | heute | end | progressive past modal
    now | jetzt | end | progressive
    this morning | heute Morgen | end | past
    yesterday | gestern | end | past
    last week | letzte Woche | end | past
    on Monday | an dem Montag | end | past modal
    tomorrow | morgen | end | modal
"""
CONJUNCTIONS = {
    "because": "weil", "when": "wenn", "if": "wenn", "although": "obwohl", "that": "dass", "and": "und", "but": "aber",
}  # fmt: skip


def _rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in row.split("|")] for line in table.split("\n") for row in line.split(";") if row.strip()]


def _nouns() -> dict[str, Noun]:
    found = {}
    for sort, table in _NOUNS.items():
        for (row,) in _rows(table):
            english, english_plural, german, gender, german_plural = row.split()
            found[english] = Noun(english, english_plural, german, gender, german_plural, sort)
    return found


def _verbs() -> dict[str, Verb]:
    found = {}
    for line in filter(str.strip, _VERBS.split("\n")):
        english, german, frame, subjects, objects = (cell.strip() for cell in line.split("|"))
        base, past, progressive = (word.replace("_", " ").replace("-", "") for word in english.split())
        infinitive, second, third, participle, auxiliary = german.split()
        prefix, _, stem = infinitive.rpartition("+")
        found[base] = Verb(
            base, past, progressive, prefix, stem, second, third, participle, auxiliary, frame,
            tuple(subjects.split()), tuple(objects.split()),
        )  # fmt: skip
    return found


NOUNS: dict[str, Noun] = _nouns()
"""English singular → the noun."""

VERBS: dict[str, Verb] = _verbs()
"""English base form → the verb."""

ADJECTIVES: dict[str, Adjective] = {
    words.split()[0]: Adjective(
        words.split()[0], words.split()[1], words.split()[1 if words.split()[2] == "-" else 2], tuple(sorts.split())
    )
    for words, sorts in _rows(_ADJECTIVES)
}
"""English → the adjective."""

ADVERBIALS: dict[str, Adverbial] = {
    english: Adverbial(english, german, place, tuple(tenses.split())) for english, german, place, tenses in _rows(_ADVERBIALS)
}
"""English → the adverbial."""
