"""How a finished run is published, as its end says it."""

import pytest

from c3l_hf.pipeline.publication import push_command


@pytest.mark.parametrize(
    ("license", "images_license", "expected"),
    [
        ("mit", "cc-by-4.0", "c3l push runs/mine"),
        (None, "cc-by-4.0", "c3l push runs/mine --license LICENCE"),
        (None, None, "c3l push runs/mine --license LICENCE --images_license LICENCE"),
    ],
)
def test_the_command_has_the_licences_that_are_missing(license, images_license, expected):
    assert push_command("runs/mine", license, images_license) == expected


def test_the_command_has_what_was_typed():
    typed = {"hub_namespace": "user", "license": "mit"}
    expected = "c3l push runs/mine --hub_namespace user --license mit --images_license LICENCE"
    assert push_command("runs/mine", "stated", None, typed) == expected
    # What was typed from an example is no licence.
    assert push_command("runs/mine", None, "mit", {"license": "LICENCE"}) == "c3l push runs/mine --license LICENCE"


def test_a_folder_with_spaces_can_be_typed():
    assert push_command("my runs/1", "mit", "mit") == "c3l push 'my runs/1'"
