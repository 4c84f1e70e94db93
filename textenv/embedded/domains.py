"""The ten things that the embedded texts talk about, and the words that each of them brings along.

A document has one domain. Its nouns belong to that domain alone (a test checks it), so that a sentence which mixes two
domains ("the pasta and the pillow") is recognised as a mistake. Domains are drawn with Zipf weights in the order of this
file: with equal weights a small language model sits on a plateau for millions of tokens before it learns to keep to one topic.

    thing   what is reviewed              "this novel"
    part    what it has                   "the preface was dull"
    role    who works there               "the author explained the preface"
    place   where that happens            "near the library"
    did     what the customer did with it "I borrowed this novel"
"""

from __future__ import annotations

DOMAINS: dict[str, dict[str, str]] = {
    "film": {
        "thing": "film movie thriller comedy drama documentary western musical sequel cartoon",
        "part": "plot ending script dialogue soundtrack cast scene trailer pacing costume twist editing lighting stunt "
        "finale photography subtitle flashback monologue makeup title chase scenery",
        "role": "actor director writer producer hero villain editor narrator",
        "place": "cinema festival theatre studio premiere",
        "did": "watched saw streamed rented rewatched",
    },
    "restaurant": {
        "thing": "restaurant cafe diner bistro pizzeria bakery tavern canteen steakhouse brasserie",
        "part": "soup bread sauce pasta menu dessert coffee salad cheese steak curry pudding wine pizza omelette risotto "
        "salmon cake gravy lobster stew dumpling burger kitchen table",
        "role": "waiter chef cook baker hostess bartender dishwasher",
        "place": "harbour market courtyard patio cellar",
        "did": "visited tried booked discovered",
    },
    "gadget": {
        "thing": "phone laptop tablet camera headset smartwatch printer router console scanner",
        "part": "battery screen charger speaker button cable software keyboard microphone display lens sensor casing hinge "
        "antenna processor memory firmware touchpad stylus adapter warranty manual",
        "role": "technician seller engineer courier developer tester",
        "place": "shop warehouse depot helpdesk outlet",
        "did": "bought ordered returned upgraded unpacked",
    },
    "hotel": {
        "thing": "hotel hostel motel resort guesthouse lodge villa inn chalet",
        "part": "room bed pillow shower lobby breakfast bathroom towel balcony pool sauna elevator blanket mattress carpet "
        "wardrobe minibar terrace hallway curtain heating bathtub lamp",
        "role": "receptionist porter manager housekeeper concierge janitor maid",
        "place": "beach lake promenade lighthouse marina",
        "did": "booked chose entered left revisited",
    },
    "book": {
        "thing": "book novel memoir biography anthology paperback diary saga fable",
        "part": "chapter prose cover story preface paragraph index glossary epilogue prologue narrative metaphor font binding "
        "verse footnote poem translation subplot introduction dedication",
        "role": "author translator illustrator publisher librarian critic poet",
        "place": "library bookshop archive kiosk stall",
        "did": "read finished borrowed reread skimmed",
    },
    "car": {
        "thing": "car van truck motorcycle scooter convertible sedan wagon minibus",
        "part": "engine brake seat steering gearbox dashboard clutch mirror trunk bumper windshield radiator exhaust tire wheel "
        "horn pedal suspension headlight seatbelt ignition bonnet",
        "role": "mechanic driver dealer inspector instructor passenger",
        "place": "garage dealership roundabout crossroads tollgate",
        "did": "drove bought sold parked repaired",
    },
    "concert": {
        "thing": "concert gig album symphony opera recital song sonata",
        "part": "melody rhythm guitar chorus violin piano stage encore bass drum harmony orchestra trumpet flute cello organ choir "
        "tempo solo ballad amplifier overture",
        "role": "singer drummer conductor pianist guitarist composer violinist",
        "place": "arena stadium club ballroom bandstand",
        "did": "heard attended recorded taped",
    },
    "course": {
        "thing": "course class lecture seminar tutorial webinar lesson bootcamp",
        "part": "homework exam syllabus slide whiteboard curriculum quiz timetable worksheet exercise classroom projector "
        "assignment diploma grading notebook forum podium essay handout",
        "role": "teacher professor tutor student lecturer dean",
        "place": "campus college academy auditorium school",
        "did": "took joined completed attended",
    },
    "garden": {
        "thing": "garden park orchard greenhouse allotment meadow vineyard",
        "part": "lawn hedge fountain bench path rose tulip pond gate fence bridge statue compost shed oak willow flowerbed hose "
        "rake gazebo lavender maze",
        "role": "gardener florist botanist keeper volunteer beekeeper",
        "place": "village nursery valley hillside mill",
        "did": "explored toured planted visited",
    },
    "journey": {
        "thing": "train ferry flight cruise tram coach",
        "part": "ticket platform schedule carriage window luggage deck aisle itinerary announcement route connection compartment "
        "snack locker buffet corridor timer handrail bunk",
        "role": "pilot stewardess captain sailor clerk guard",
        "place": "airport terminal pier junction border",
        "did": "boarded caught took booked",
    },
}
"""Domain → kind of word → words, most frequent first."""
