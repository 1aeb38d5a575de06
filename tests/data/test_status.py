"""What a run says of rows that it could not use."""

import pytest
from hostile_rows import messages, rows
from PIL import Image

from c3l_hf.common.errors import RowError
from c3l_hf.data.image_files import located
from c3l_hf.data.status import count_reasons, of_image, publishable, reason_kind, without_folders
from c3l_hf.data.turns import to_turns
from c3l_hf.files.image import open_image


@pytest.mark.parametrize("content", [None, b"no picture"])
def test_no_path_of_this_machine_is_published(tmp_path, content):
    path = tmp_path / "it's a b.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RowError) as caught:
        open_image({"bytes": None, "path": str(path)})
    assert str(tmp_path) in str(caught.value)
    kind = "there is no such file" if content is None else "it is no picture"
    assert publishable(str(caught.value)) == f"the image cannot be read ({kind})"


def test_paths_of_pictures_that_are_not_read_are_not_published(tmp_path):
    path = tmp_path / "a is GIF, which is b.eps"
    Image.new("RGB", (4, 4)).save(path, "EPS")
    reasons = []
    for read in (
        lambda: open_image(path),
        lambda: open_image("file://office/c.png"),
        lambda: located("/c.png", tmp_path),
    ):
        with pytest.raises(RowError) as caught:
            read()
        reasons.append(publishable(str(caught.value)))
    assert reasons == [
        "the image is EPS, which is not read; convert it to PNG or JPEG",
        "the image is on another machine; give a path, or a URL as file:///path",
        "the image is not in the folder of the images",
    ]


@pytest.mark.parametrize("address", ["https://example.com/a.png?token=x", "http://a b/c, d.png"])
def test_addresses_are_not_published(address):
    with pytest.raises(RowError) as caught:
        open_image(address)
    status = "the image is an address, which is not fetched; download it and give its path, or use download_images"
    assert publishable(str(caught.value)) == status


@pytest.mark.parametrize("content", [None, b"no picture"])
@pytest.mark.parametrize("name", ["it's a b.png", "a.png"])
def test_what_is_sent_to_others_has_names_without_folders(tmp_path, content, name):
    folder = tmp_path / "home of someone"
    folder.mkdir()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(RowError) as caught:
        open_image({"bytes": None, "path": str(folder / name)})
    told = without_folders(str(caught.value))
    assert told.startswith(f"the image {name} cannot be read: ") and "someone" not in told and "/" not in told
    assert without_folders("the image photos/a.png cannot be read: OSError: x") == (
        "the image photos/a.png cannot be read: OSError: x"
    )
    assert without_folders("the image C:\\me\\a.png cannot be read: OSError: x").startswith("the image a.png cannot")


def test_other_reasons_stay():
    for status in ("ok", "prompt is null", "the image has mode I;16; convert it to 8 bits per channel"):
        assert publishable(status) == status


@pytest.mark.parametrize(
    ("status", "known"),
    [
        ("no image", True),
        ("the image cannot be read (it is no picture)", True),
        ("images[1] cannot be read (OSError)", True),
        ("images[0] is null", True),
        ("ok", False),
        ("no answer", False),
        ("no image of a dog is in the reply", False),
    ],
)
def test_what_is_the_images_fault(status, known):
    assert of_image(status) is known


@pytest.mark.parametrize(
    ("reasons", "told"),
    [
        (
            [f"the image {name} cannot be read: there is no such file: '/x/{name}'" for name in ("a b.png", "c")],
            "the image cannot be read: there is no such file, as a b.png; is image_folder, where relative "
            "paths begin, given and right?",
        ),
        (
            [f"the image is an address, http://a/{n},x.png, which is not fetched; download it" for n in "ab"],
            "the image is an address, which is not fetched; download it, as http://a/a,x.png",
        ),
        (
            [f"the image {n}.eps is EPS, which is not read; convert it" for n in "ab"],
            "the image is EPS, which is not read; convert it, as a.eps",
        ),
        (["700 tokens, but the model takes at most 512", "701 tokens, but the model takes at most 512"], None),
        (["the image cannot be read: it is empty"] * 2, None),
    ],
)
def test_reasons_that_are_the_same_but_for_a_name_are_one(reasons, told):
    ((text, count), other) = count_reasons(["prompt is null", *reasons])
    assert count == 2 and other == ("prompt is null", 1)
    assert text == (told or reasons[0].replace("700", "N").replace("512", "N"))


def test_errors_of_other_numbers_are_others():
    address = "the image is an address, http://a/b.png, which could not be downloaded: the server answers HTTP {}"
    assert len(count_reasons([address.format(404), address.format(500)])) == 2


def test_a_long_name_is_not_cut_within(tmp_path):
    name = "/".join(["photographs of the summer"] * 8) + "/a.png"
    with pytest.raises(RowError) as caught:
        open_image(name)
    ((text, _),) = count_reasons([str(caught.value)])
    assert "as …/photographs of the summer/" in text and "/a.png; " in text


def reasons_of(row):
    try:
        for turn in to_turns(row):
            if isinstance(turn, RowError):
                raise turn
            for image in turn.images:
                open_image(image)
    except RowError as error:
        yield str(error)


def test_reasons_can_be_counted():
    """Hostile rows have few kinds of reasons, and none of them has a word of a row in it."""
    marked = "Aredkite"
    made = [row for seed in range(2) for row in (*rows(150, seed), *messages(300, seed))]
    made += [
        {"image": None, "messages": value}
        for value in (marked, [marked], {marked: 1}, [{"role": marked, "content": "a"}])
    ]
    made += [
        {"images": [b""], "messages": [{"role": role, "content": content, "weight": weight}]}
        for role, content, weight in (
            (marked, "a", 1),
            ("user", [marked], 1),
            ("user", "a", marked),
            ({marked: 1}, 0, 1),
        )
    ]
    made += [
        {"image": {marked: 1}, "question": "?", "answer": "a"},
        {"image": "", "history": marked, "query": "?", "response": ""},
    ]
    kinds = {reason_kind(reason) for row in made for reason in reasons_of(row)}
    assert 30 < len(kinds) < 60
    words = (marked, "kite", "dogs", "nothing.", "Seven", "DROP", "passwd", "role'", "Error", "{", "[N")
    assert not [kind for kind in kinds for word in words if word in kind]


def test_the_words_of_a_processor_are_counted_without_what_they_quote():
    said = (
        "the processor refuses the row: no size for 'a kite' of 7",
        "the processor refuses the row: no size for 'b' of 9",
    )
    assert len(count_reasons(said)) == 1
