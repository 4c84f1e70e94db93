"""The words that all domains share, most frequent first, each list with the slope of its Zipf weights.

The lists under POLARITY carry sentiment, those under INSULTS are rude; a word stands in one of these lists or in none
of them, which is what lets `textenv.embedded.truth` read the truth off any text. The insults are comic on purpose: this
world needs rudeness that a critic can point at, and no slur. All lists were written for this project.
"""

from __future__ import annotations

GOOD = (
    "good great lovely excellent wonderful charming superb delightful brilliant impressive fantastic pleasant elegant "
    "beautiful amazing stunning remarkable splendid graceful perfect marvelous gorgeous memorable enjoyable refreshing "
    "polished reliable comfortable witty vivid gripping satisfying thoughtful touching exquisite flawless terrific "
    "outstanding admirable magnificent captivating dazzling engaging fascinating heartwarming rewarding stellar sublime "
    "tasteful uplifting worthwhile fabulous glorious exceptional phenomenal radiant masterful enchanting soothing sturdy"
)
BAD = (
    "bad dull awful terrible boring poor weak ugly disappointing horrible dreadful mediocre clumsy tedious annoying messy "
    "shoddy bland noisy dirty tasteless flimsy broken lousy unpleasant confusing disgusting frustrating miserable pointless "
    "predictable sloppy stale tiresome unreliable useless lifeless forgettable atrocious abysmal appalling awkward chaotic "
    "creaky defective depressing dismal dreary faulty filthy ghastly hideous hollow horrid irritating laughable monotonous "
    "overpriced rotten shabby sluggish"
)
GOOD_DONE = "loved liked enjoyed admired adored appreciated treasured cherished relished savoured"  # I … it
GOOD_DO = "love like enjoy admire adore appreciate treasure cherish relish savour"  # I did not … it
BAD_DONE = "hated disliked despised regretted resented loathed detested deplored"
BAD_DO = "hate dislike despise regret resent loathe detest deplore"
GOOD_EFFECT = "impressed delighted amazed charmed thrilled fascinated enchanted dazzled"  # it … me
BAD_EFFECT = "annoyed disappointed bored irritated frustrated disgusted angered appalled"
STRONG = "very really truly so extremely absolutely incredibly utterly deeply thoroughly exceptionally totally"  # count double
MILD = "quite rather fairly somewhat reasonably"  # count as if they were not there
NEGATION = "not never hardly"

INSULT_ADJECTIVE = (
    "stupid pathetic braindead idiotic clueless brainless worthless moronic witless spineless ignorant arrogant gutless "
    "smelly slimy pompous whiny gormless dimwitted childish cowardly foolish halfwitted incompetent insufferable malicious "
    "nosy petty puny shameless sneaky snivelling spiteful toothless vain vile weaselly wimpy wretched bumbling blithering "
    "babbling mangy scruffy sleazy"
)
INSULT_NOUN = (
    "idiot moron fool weasel windbag clown imbecile loser dunce buffoon coward liar dimwit halfwit nitwit twit blockhead "
    "bonehead numbskull simpleton oaf toad worm jerk creep crook fraud hypocrite knucklehead lout muppet nincompoop numpty "
    "parasite phony pinhead pipsqueak scoundrel slob snob swine toerag troll twerp airhead birdbrain blabbermouth blowhard "
    "bozo chump crybaby dingbat dolt doofus dork fathead goon ignoramus lamebrain meathead slimeball whiner wimp"
)

NAME = (
    "Anna Ben Clara David Emma Felix Grace Henry Iris Jack Karen Leo Maria Nina Oscar Paula Rosa Sam Tom Uma Victor Wendy "
    "Xavier Yara Zoe Alan Bella Carl Diana Edgar Fiona George Hannah Ivan Julia Kevin Laura Martin Nora Oliver Peter Rachel "
    "Simon Tara Walter Alice Bruno Daisy Ethan Frida"
)
CITY = (
    "London Paris Berlin Madrid Rome Vienna Prague Lisbon Dublin Oslo Athens Warsaw Geneva Munich Milan Lyon Porto Boston "
    "Chicago Toronto Sydney Tokyo Cairo Lima"
)
RELATIVE = (
    "brother sister mother father cousin aunt uncle neighbour colleague friend daughter son wife husband grandmother nephew "
    "niece boss roommate partner grandfather accountant dentist landlord"
)
NEUTRAL = (
    "new old small large red blue green long short round narrow wide wooden local foreign official usual original ordinary "
    "standard electric portable plain yellow grey brown square heavy tall thin thick dark quiet modern ancient printed "
    "painted striped hidden double single spare rented folded separate temporary public private northern southern seasonal "
    "digital"
)
DONE = (
    "mentioned described checked changed moved replaced discussed noticed compared explained inspected measured photographed "
    "examined showed cleaned tested counted marked copied wrapped adjusted prepared presented introduced labelled sketched "
    "removed planned reviewed"
)
DO = (
    "mention describe check change move replace discuss notice compare explain inspect measure photograph examine show clean "
    "test count mark copy wrap adjust prepare present introduce label sketch remove plan review"
)
POST = (
    "comment post message letter reply question answer note remark article summary report proposal suggestion email list "
    "paper statement request column"
)
PERIOD = "week month year summer winter spring autumn weekend night evening"
DAY = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
MONTH = "January February March April May June July August September October November December"
NUMBER = "two three four five six seven eight nine ten eleven twelve"
SPAN = "days weeks months years hours minutes"
ORDINAL = "first second third fourth fifth"

WEIGHTED: dict[str, tuple[str, float]] = {
    "good": (GOOD, 0.6),
    "bad": (BAD, 0.6),
    "strong": (STRONG, 0.7),
    "mild": (MILD, 0.7),
    "negation": (NEGATION, 1.2),
    "good_done": (GOOD_DONE, 0.7),
    "good_do": (GOOD_DO, 0.7),
    "bad_done": (BAD_DONE, 0.7),
    "bad_do": (BAD_DO, 0.7),
    "good_effect": (GOOD_EFFECT, 0.7),
    "bad_effect": (BAD_EFFECT, 0.7),
    "insult_adjective": (INSULT_ADJECTIVE, 0.6),
    "insult_noun": (INSULT_NOUN, 0.6),
    "name": (NAME, 0.7),
    "city": (CITY, 0.8),
    "relative": (RELATIVE, 0.8),
    "neutral": (NEUTRAL, 0.7),
    "done": (DONE, 0.7),
    "do": (DO, 0.7),
    "post": (POST, 0.8),
    "period": (PERIOD, 0.8),
    "day": (DAY, 0.3),
    "month": (MONTH, 0.3),
    "number": (NUMBER, 0.8),
    "span": (SPAN, 0.8),
    "ordinal": (ORDINAL, 0.8),
}
"""Slot → (its words, the exponent a of their weights 1 / (rank + 1)^a)."""
