"""What is wrong with conversations is found, and good ones are never accused."""

import numpy as np
import pytest
from py3langid import langid

from c3l_hf.prompts.refusals import is_refusal
from c3l_hf.prompts.reply_checks import LANGUAGES, problem_of, repeats_to_its_end, unfit_characters
from c3l_hf.scenes.questions import ask
from c3l_hf.scenes.templates import QUESTION_TYPES
from c3l_hf.scenes.world import sample_scene

# By language: pairs as generators write them; names, quotations, short and unanswerable ones among them.
GOOD = {
    "en": [
        (
            "What does the sign say?",
            'The sign says "Achtung Baustelle! Eltern haften für ihre Kinder, Betreten verboten".',
        ),
        ("What is the restaurant called?", "It is called La Trattoria del Mare di Giovanni e Maria Rossi."),
        (
            "Which brands are there?",
            "Coca-Cola, Pepsi, Fanta, Sprite, Nestea, Lipton, Red Bull, Gatorade, Evian, Perrier.",
        ),
        (
            "Which cities are on the map?",
            "Berlin, Hamburg, München, Köln, Frankfurt am Main, Stuttgart, Düsseldorf, Leipzig, Dortmund, Essen, "
            "Bremen, Dresden, Hannover, Nürnberg.",
        ),
        (
            "What is on the label?",
            "Aqua, Sodium Laureth Sulfate, Cocamidopropyl Betaine, Glycerin, Parfum, Citric Acid.",
        ),
        ("What is on the menu?", "Pad thai, tom yum goong, som tam, khao pad, massaman curry, mango sticky rice."),
        ("What is the number plate?", "B-MW 1234"),
        ("What number is shown?", "0000 0000 0000 0000"),
        ("What does the baby say?", "ha ha ha"),
        ("What does the flag look like?", "Red, white, red, white, red, white, red, white, in stripes."),
        (
            "Describe it.",
            "A woman in a yellow raincoat walks her brown dog along the beach. The sea is rough and grey.",
        ),
    ],
    "de": [
        (
            "Was steht auf dem Schild?",
            "Auf dem Schild steht „Mind the gap between the train and the platform, please“.",
        ),
        (
            "Welche Programme sind offen?",
            "Visual Studio Code, Google Chrome, Slack, Zoom, Spotify, Adobe Photoshop und Excel.",
        ),
        ("Was macht der Mann?", "Er fährt mit dem Fahrrad eine enge Straße entlang, an der alte Häuser stehen."),
        ("Was trägt sie?", "T-Shirt, Jeans, Sneakers und eine Baseballcap."),
    ],
    "fr": [
        ("Que fait l'homme ?", "Il roule à vélo dans une rue étroite bordée de maisons anciennes."),
        ("Quel est le menu ?", "Croissant, pain au chocolat, brioche, éclair, mille-feuille, tarte Tatin, macaron."),
    ],
    "zh": [
        ("这个人在做什么？", "他正骑着自行车沿着一条狭窄的街道前进，路边有很多老房子。"),
        ("标志上写着什么？", "标志上写着「No parking at any time, tow-away zone」。"),
    ],
}
# What a template of unanswerable questions wants, and its like.
NOT_IN_THE_PICTURE = [
    "That cannot be seen in the picture.",
    "I cannot see a cat in the image; there is only a dog.",
    "No, I cannot see the picture on the wall clearly, as the lamp is in front of it.",
    "I'm sorry, but the clock cannot be read in the image: it is too small.",
    "Unfortunately, the picture does not show why she is crying.",
    "I am unable to see what happened before the picture was taken.",
    "It cannot be told from the picture who they are.",
    "I can't see any sign that he needs help.",
    "There is no picture provided with the text on the left page.",
    'The screen shows an error: "I cannot see the image."',
    "As an AI-themed exhibit it is a model.",
    "As an artist, he wants to show the loneliness of the city.",
    "Leider kann ich das auf dem Bild nicht erkennen, die Uhr ist zu klein.",
    "Ich kann auf dem Bild keinen Hund sehen.",
    "Ich kann das Foto an der Wand nicht erkennen, weil die Lampe davor steht.",
    "Das ist auf dem Bild nicht zu sehen.",
    "On ne peut pas le voir sur l'image.",
    "从图片中无法看到原因，只能看到她的脸。",
]
REFUSALS = [
    "I cannot see the image.",
    "I'm sorry, but I can't see the image you are referring to.",
    "I can't view images directly, but I can help with text.",
    "I’m unable to view or analyze images.",
    "As an AI language model, I cannot see pictures.",
    "As a text-based AI, I have no eyes.",
    "I'm sorry, but I cannot assist with this request.",
    "Sorry, I can’t help with that.",
    "I don't have access to the image.",
    "Unfortunately, I cannot see any image in our conversation.",
    "I am not able to process images at this time.",
    "There is no image provided.",
    "No image was provided, so I cannot answer.",
    "Please upload an image.",
    "Es tut mir leid, aber ich kann das Bild nicht sehen.",
    "Ich kann leider keine Bilder ansehen.",
    "Ich bin nicht in der Lage, Bilder zu sehen.",
    "Als KI-Sprachmodell kann ich keine Bilder sehen.",
    "Tut mir leid, dabei kann ich nicht helfen.",
    "Es wurde kein Bild hochgeladen.",
    "Je suis désolé, mais je ne peux pas voir l'image.",
    "Lo siento, no puedo ver la imagen.",
    "抱歉，我无法看到图片。",
    "作为一个AI语言模型，我无法查看图片。",
]


@pytest.mark.parametrize("language", GOOD)
def test_good_pairs_have_no_problem(language):
    for pair in GOOD[language]:
        assert problem_of([pair], language) is None, pair


def test_true_pairs_of_the_scenes_have_no_problem():
    rng = np.random.default_rng(0)
    checked = 0
    for number in range(300):
        scene = sample_scene(rng, str(number))
        pairs = list(dict.fromkeys(filter(None, (ask(scene, type, rng) for type in QUESTION_TYPES))))
        checked += len(pairs)
        for conversation in [pairs, *([pair] for pair in pairs)]:
            assert problem_of(conversation, "en") is None, conversation
    assert checked > 1800


@pytest.mark.parametrize("text", NOT_IN_THE_PICTURE)
def test_that_something_is_not_in_the_picture_is_an_answer(text):
    assert not is_refusal(text)


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals(text):
    assert is_refusal(text)
    assert problem_of([("What is it?", text)]) == "a refusal"


@pytest.mark.parametrize(
    ("pair", "language"),
    [
        (GOOD["en"][-1], "de"),
        (GOOD["en"][-1], "zh"),
        (GOOD["de"][2], "en"),
        (GOOD["fr"][0], "en"),
        (GOOD["zh"][0], "en"),
        (("What is he doing?", GOOD["zh"][0][1]), "en"),  # as models do in the middle of a dialogue
    ],
)
def test_another_language(pair, language):
    assert problem_of([pair], language) == "another language than the template's"
    assert problem_of([pair], None) is None


def test_the_languages_are_those_of_the_library():
    known = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE).labels
    assert LANGUAGES == set(known) - {"zxx"}  # no language at all


@pytest.mark.parametrize(
    "text",
    [
        "There is a dog" + ", a dog" * 20,
        "ha " * 40,
        "a" * 60,
        "The cat sits on the mat in front of the house. " * 3,
        "It is red. " + "And so on, and so on, " * 5 + "and so",
        "他在骑自行车，" * 20,
    ],
)
def test_endless_repetition(text):
    assert repeats_to_its_end(text)
    assert problem_of([("What is it?", text)]) == "endless repetition"


@pytest.mark.parametrize(
    "text",
    [
        "ha " * 10,
        "a dog, a dog, a dog, a dog, a dog, a dog, a dog, a dog, and then a cat that sleeps",
        "The cat sits on the mat in front of the house. " * 2,
        "|" + " --- |" * 30,
        "." * 200,
        "There is a red cup. There is a blue cup. There is a green cup. There is a white cup. There is a black cup.",
    ],
)
def test_no_endless_repetition(text):
    assert not repeats_to_its_end(text)


@pytest.mark.parametrize("letter", ["\0", "\x1b", "\x7f", "\x85", "\u202e", "\u2066", "\ufffd", "\ud800", "\uffff"])
def test_control_characters(letter):
    assert unfit_characters(f"a{letter}b") == f"U+{ord(letter):04X}"
    assert problem_of([("a?", f"b{letter}")]) == "control characters"


def test_usual_characters():
    assert unfit_characters("a\tb\nc\u200d👩‍🚀 é \u200f שלום") is None


def test_a_turn_that_is_there_twice():
    assert problem_of([("a?", "b"), ("c?", "d"), ("A?", "b")]) == "a turn is there twice"
    assert problem_of([("Is it red?", "Yes."), ("Is it big?", "Yes.")]) is None
