import json

import pytest

from c3l_hf.common.checksums import CHECKSUMS, checksum, checksums_of, seal, seal_damage


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(range(256)) * 5000)  # more than is read at once
    (tmp_path / "below" / "config.json").write_text("{}")
    return tmp_path


def test_a_checksum_is_that_of_the_whole_content(folder):
    import xxhash

    assert checksum(folder / "weights.bin") == xxhash.xxh3_128(bytes(range(256)) * 5000).hexdigest()


def test_files_at_any_depth_count_and_parts_of_files_do_not(folder):
    (folder / ".weights.bin.partial").write_bytes(b"half")
    assert list(checksums_of(folder)) == ["below/config.json", "weights.bin"]


def test_one_flipped_bit_a_cut_and_a_missing_file_are_found(folder):
    seal(folder)
    assert seal_damage(folder) == {}
    content = bytearray((folder / "weights.bin").read_bytes())
    content[700_000] ^= 1
    (folder / "weights.bin").write_bytes(content)
    (folder / "below" / "config.json").unlink()
    assert seal_damage(folder) == {"below/config.json": "is missing", "weights.bin": "is not what was written"}


def test_a_seal_tells_the_whole_from_the_cut_short(folder):
    assert seal_damage(folder) is None
    seal(folder)
    assert seal_damage(folder) == {}
    (folder / "weights.bin").write_bytes(b"")
    assert seal_damage(folder) == {"weights.bin": "is not what was written"}


@pytest.mark.parametrize("text", ["", "[]", '{"weights.bin": '])
def test_a_damaged_seal_is_damage(folder, text):
    seal(folder)
    (folder / CHECKSUMS).write_text(text)
    assert seal_damage(folder) == {CHECKSUMS: "cannot be read"}


def test_a_seal_again_replaces_the_first(folder):
    seal(folder)
    (folder / "more").write_text("x")
    seal(folder)
    assert "more" in json.loads((folder / CHECKSUMS).read_text())
