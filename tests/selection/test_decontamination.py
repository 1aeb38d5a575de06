"""Decontamination: what was planted is found, by picture and by text, and common questions are not."""

import pytest
from datasets import Dataset
from photos import COPIES, encoded, photo, stored
from scored_rows import FEATURES, pair

from c3l_hf.selection.curation import curate
from c3l_hf.selection.decontamination import benchmark_contents

LONG = "Considering the two bicycles that lean against the old wall, which of them has a basket in front?"


def pairs(*rows):
    """(number of the photo or None, question, answer) each."""
    return Dataset.from_list(
        [
            {
                **pair(f"i{place}", 0, float(place), question=question, answer=answer),
                "images": [stored(photo(100 + place) if picture is None else picture)],
            }
            for place, (picture, question, answer) in enumerate(rows)
        ],
        features=FEATURES,
    )


@pytest.fixture(scope="module")
def pope():
    asked = [(f"p{number}", "Is there a dog in the image?") for number in range(5)]
    images = [(f"p{number}", [encoded(photo(number))]) for number in range(5)]
    return benchmark_contents("pope", images, [*asked, ("p1", LONG), ("p2", "One two three four five six seven")])


def test_pictures_and_long_texts_are_found(pope):
    data = pairs(
        (None, "Is there a dog in the image?", "No."),  # about another picture: no contamination
        (photo(1), "What is this?", "A hill."),
        (COPIES["jpeg 60"](photo(2)), "And this?", "A lake."),
        (None, LONG.upper().replace(",", " –"), "The left one."),
        (None, "Well: " + LONG, "The right one."),
        (None, " ".join(LONG.split()[:12]) + "?", "Twelve words are not enough."),
        (None, "What did they ask?", f"They asked: {LONG}"),
        (COPIES["grey"](photo(3)), LONG, "Both."),  # counted once
    )
    curated, report = curate(data, benchmarks=[pope])
    assert curated["pair_id"][:] == ["i0/0", "i5/0"]
    assert {rule: count for rule, count in report.dropped.items() if "pope" in rule} == {
        "about an image of pope": 3,
        "with a text of pope": 3,
    }
    assert "about an image of pope" in str(report)


def test_each_pair_is_counted_with_the_first_benchmark(pope):
    other = benchmark_contents("mine", [("a", [encoded(photo(1))]), ("b", [encoded(photo(9))])], [("a", LONG)])
    data = pairs((photo(1), "What?", "A."), (photo(9), "Where?", "B."), (None, LONG, "C."), (None, "Who?", "D."))
    for order, counts in (([pope, other], (1, 1, 1, 0)), ([other, pope], (2, 0, 1, 0))):
        curated, report = curate(data, benchmarks=order)
        first, second = (one.name for one in order)
        rules = (
            f"about an image of {first}",
            f"about an image of {second}",
            f"with a text of {first}",
            f"with a text of {second}",
        )
        assert tuple(report.dropped[rule] for rule in rules) == counts and curated["pair_id"][:] == ["i3/0"]


def test_a_benchmark_s_way_of_asking_is_no_text_of_its_own():
    phrase = "Looking at this picture as carefully as you can, please say whether there is any"
    texts = [(f"p{number}", f"{phrase} {thing}") for number, thing in enumerate("abcdefghijkl")]
    data = pairs((None, f"{phrase} zebra in it", "No"))
    for count, kept in ((10, 0), (12, 1)):
        images = [(f"p{number}", [encoded(photo(number))]) for number in range(count)]
        _, report = curate(data, benchmarks=[benchmark_contents("asked", images, texts[:count])])
        assert report.kept == kept
    # About one picture it may be asked as often as one likes.
    _, report = curate(data, benchmarks=[benchmark_contents("one", images[:1], [("p0", text) for _, text in texts])])
    assert report.kept == 0


def test_runs_do_not_go_from_one_text_to_the_next(pope):
    words = LONG.split()
    data = pairs((None, " ".join(words[9:]), "y"), (None, " ".join(words[:9]), " ".join(words[9:])))
    assert curate(data, benchmarks=[pope])[1].kept == 2


def test_benchmarks_without_texts_and_with_pictures_that_cannot_be_read():
    folder = benchmark_contents("folder", [("a", [encoded(photo(0))]), ("b", [b"no picture"])])
    curated, report = curate(pairs((photo(0), "What?", "A."), (None, "Who?", "B.")), benchmarks=[folder])
    assert curated["pair_id"][:] == ["i1/0"]
    assert report.assumed == ["folder: images compared with none: 1; the image cannot be read (it is no picture)"]


def test_pictures_of_which_none_can_be_read_are_no_clean_result():
    """As with a wrong folder: else all pairs would stay, as if they had been compared."""
    data = pairs((photo(0), "What?", "A."), (None, "Who?", "B."))
    gone = benchmark_contents("folder", [("a", [b"no picture"]), ("b", ["/nowhere/b.png"])])
    curate(data, benchmarks=[gone])
    gone = benchmark_contents("folder", [("a", ["/nowhere/a.png"]), ("b", ["/nowhere/b.png"])])
    with pytest.raises(
        ValueError, match=r"benchmark folder: of 2 pictures of it none can be read; .*there is no such file"
    ):
        curate(data, benchmarks=[gone])
    named = data.remove_columns("images").add_column("image", ["0.png", "1.png"])
    with pytest.raises(ValueError, match="image_folder may be missing or wrong: of 2 pictures of the pairs none can"):
        curate(named, near_duplicate_images="same")
