"""Files of rows as they come: cut, damaged, in other encodings, of another kind than their name says.

`FILES` has those that are refused, with what the one line says of each; `READ` those that are read, with their rows.
"""

import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = [
    {"image": f"{number}.png", "question": f"What is {number}?", "answer": f"It is {number}."} for number in range(20)
]
LINES = "\n".join(map(json.dumps, ROWS)).encode()
CSV = "\n".join(",".join(row) for row in ([*ROWS[0]], *(row.values() for row in ROWS))).encode() + b"\n"
DEEP = b'{"question": %s1%s}'


def _parquet() -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), file)
    return file.getvalue()


def _claims_rows(count: int) -> bytes:
    """A few kB that say that they have so many rows."""
    file = io.BytesIO()
    table = pa.table({"answer": pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int8()), pa.array(["x"]))})
    pq.write_table(table, file)
    return file.getvalue()


def _arrow() -> bytes:
    file, table = io.BytesIO(), pa.Table.from_pylist(ROWS)
    with pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    return file.getvalue()


def _arrow_beyond_its_end() -> bytes:
    """An Arrow file with a text that ends far beyond it: to read this text ends the process."""
    file = io.BytesIO()
    with pa.ipc.new_stream(file, pa.schema({"answer": pa.string()})) as writer:
        writer.write_batch(pa.record_batch([["alpha", "beta", "c"]], names=["answer"]))
    places = b"".join(number.to_bytes(4, "little") for number in (0, 5, 9, 10))
    assert file.getvalue().count(places) == 1
    return file.getvalue().replace(places, places[:8] + b"\0\0\xff\x7f" + places[12:])


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for number, row in enumerate(ROWS):
            content = json.dumps(row).encode()
            member = tarfile.TarInfo(f"{number:03}.json")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


PARQUET, ARROW, TAR = _parquet(), _arrow(), _tar()
_UTF16, _ZERO, _EMPTY = "is not text in UTF-8 (it begins as UTF-16); save it as UTF-8", "has a byte 0", "is empty"
_DAMAGED, _CUT = "is damaged or was cut off", "cannot be read: Compressed file ended before"
_TOO_DEEP = "has lists and objects in each other, more than 100 deep"

# Name → content, and a part of what is said of it.
FILES: dict[str, tuple[bytes, str]] = {
    # JSON lines
    "cut.jsonl": (
        LINES[:-10],
        "line 20 is not JSON: Unterminated string starting at (character 58); correct or delete it",
    ),
    "cut_middle.jsonl": (
        LINES[:210] + b"\n" + LINES[240:],
        "line 4 is not JSON: ",
    ),
    "cut_first.jsonl": (LINES[5:], "line 1"),
    "bytes_of_surrogates.jsonl": (LINES + b'\n{"answer": "\xed\xa0\x80"}', "is not text in UTF-8 (line 21: "),
    "with_mark.jsonl": (LINES.decode().encode("utf-16"), _UTF16),
    "little.jsonl": (LINES.decode().encode("utf-16-le"), _UTF16),
    "big.jsonl": (LINES.decode().encode("utf-16-be"), _UTF16),
    "utf32.jsonl": (LINES.decode().encode("utf-32-le"), "it begins as UTF-32"),
    "latin.jsonl": (LINES + b'\n{"answer": "\xe4"}', "is not text in UTF-8 (line 21: "),
    "zeros_at_the_end.jsonl": (LINES + b"\n" + bytes(9000), f"line 21 {_ZERO}"),
    "zeros.jsonl": (bytes(9000), f"line 1 {_ZERO}"),
    "zeros_late.jsonl": (LINES * 20 + b"\0", "has a byte 0"),
    "empty.jsonl": (b"", _EMPTY),
    "space.jsonl": (b" \n\n\t\n", _EMPTY),
    "key_twice.jsonl": (LINES + b'\n{"answer": "a", "answer": "b"}', "line 21: an object has the key 'answer' twice"),
    "halves_of_characters.jsonl": (
        LINES + b'\n{"\\ud800": 1, "\\ud801": 2}',
        "line 21: an object has the key '�' twice",
    ),
    "column_with_zero.jsonl": (b'{"a\\u0000b": 1}\n{"a\\u0000c": 2}', "whose name has a character 0"),
    "digits.jsonl": (LINES + b'\n{"answer": ' + b"9" * 5000 + b"}", "line 21 has a number of thousands of digits"),
    "deep.jsonl": (LINES + b"\n" + DEEP % (b"[" * 900, b"]" * 900), _TOO_DEEP),
    "very_deep.jsonl": (LINES + b"\n" + DEEP % (b"[" * 10**5, b"]" * 10**5), _TOO_DEEP),
    "deep_objects.json": (b"[" + DEEP % (b'{"a":' * 300, b"}" * 300) + b"]", _TOO_DEEP),
    "two_in_a_line.jsonl": (b'{"a": 1}{"a": 2}\n{"a": 3}', "line 1 is not JSON: Extra data (character 9)"),
    "no_objects.jsonl": (b"{}\n{}\n", "has no rows"),
    "comma.json": (b'[{"a": 1},]', "it is not JSON: "),
    "quotes.json": (b"[{'a': 1}]", "it is not JSON: "),
    # Tables as texts
    "little.csv": (CSV.decode().encode("utf-16-le"), _UTF16),
    "big.csv": (CSV.decode().encode("utf-16-be"), _UTF16),
    "with_mark.tsv": (CSV.replace(b",", b"\t").decode().encode("utf-16"), _UTF16),
    "zero.csv": (CSV + b"a,b\0,c\n", f"line 22 {_ZERO}"),
    "zeros.csv": (bytes(9000), f"line 1 {_ZERO}"),
    "latin.csv": (CSV + b"a,b\xe4,c\n", "is not text in UTF-8 (line 22: "),
    "shorter.csv": (CSV + b"a,b\n", "the record that ends in line 22 has 2 fields, and the header 3"),
    "longer.csv": (CSV + b"a,b,c,d\n", "the record that ends in line 22 has 4 fields, and the header 3"),
    "open_quote.csv": (CSV + b'"a,b,c\n' + CSV, "cannot be read (unexpected end of data)"),
    "quote.csv": (b'"', "cannot be read (unexpected end of data)"),
    "empty.csv": (b"", _EMPTY),
    "space.csv": (b"\n \n\n", _EMPTY),
    # Compressed
    "cut.jsonl.gz": (gzip.compress(LINES)[:-20], _CUT),
    "cut.csv.gz": (gzip.compress(CSV)[:60], _CUT),
    "cut.tar.gz": (gzip.compress(TAR)[:-40], _CUT),
    "more.jsonl.gz": (gzip.compress(LINES) + b"more", "cannot be read: Not a gzipped file"),
    "checksum.jsonl.gz": (gzip.compress(LINES)[:-8] + bytes(8), "cannot be read: CRC check failed"),
    "no_gzip.jsonl.gz": (LINES, "cannot be read: Not a gzipped file"),
    # Tables as bytes
    "empty.parquet": (b"", _EMPTY),
    "half.parquet": (PARQUET[: len(PARQUET) // 2], _DAMAGED),
    "no_end.parquet": (PARQUET[:-4], _DAMAGED),
    "footer.parquet": (PARQUET[:-200] + bytes(192) + PARQUET[-8:], _DAMAGED),
    "length.parquet": (PARQUET[:-8] + b"\xff\xff\xff\x7fPAR1", _DAMAGED),
    "pages.parquet": (PARQUET[:20] + bytes(300) + PARQUET[320:], "cannot be read: "),
    "claims.parquet": (_claims_rows(2_000_000), "it says that it has 2,000,000 rows"),
    "empty.arrow": (b"", _EMPTY),
    "half.arrow": (ARROW[: len(ARROW) // 2], _DAMAGED),
    "length.arrow": (b"\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(100), _DAMAGED),
    "beyond_its_end.arrow": (_arrow_beyond_its_end(), _DAMAGED),
    "empty.tar": (b"", _EMPTY),
    "cut.tar": (TAR[:3000], "cannot be read: unexpected end of data"),
    # Of another kind than the name says
    "parquet.jsonl": (PARQUET, "is a Parquet file; name it .parquet"),
    "parquet.csv": (PARQUET, "is a Parquet file; name it .parquet"),
    "parquet.arrow": (PARQUET, "is a Parquet file; name it .parquet"),
    "arrow.parquet": (ARROW, "is an Arrow file; name it .arrow"),
    "lines.parquet": (LINES, _DAMAGED),
    "lines.tar": (LINES, "cannot be read: file could not be opened successfully"),
    "tar.jsonl": (TAR, "is a tar archive; name it .tar"),
    "tar.csv": (TAR, "is a tar archive; name it .tar"),
    "gzip.jsonl": (gzip.compress(LINES), "is compressed by gzip; unpack it"),
    "gzip.tar": (gzip.compress(TAR), "is compressed by gzip; unpack it"),
    "twice.jsonl.gz": (gzip.compress(gzip.compress(LINES)), "is compressed by gzip; unpack it"),
    "unread.parquet.gz": (gzip.compress(PARQUET), "is compressed by gzip; unpack it"),
    "sheet.csv": (b"PK\x03\x04" + bytes(100), "is a ZIP archive or a spreadsheet"),
    "table.json": (CSV, "it is not JSON: "),
    "picture.jsonl": (b"\x89PNG\r\n\x1a\n" + bytes(100), "is a picture"),
    "page.csv": (b"<!DOCTYPE html>\n<html>404</html>\n", "is a web page (HTML)"),
    "pointer.parquet": (b"version https://git-lfs.github.com/spec/v1\nsize 1\n", "is a pointer of Git LFS"),
    "pointer.csv": (b"version https://git-lfs.github.com/spec/v1\nsize 1\n", "is a pointer of Git LFS"),
}
# Name → content, and the last row.
READ: dict[str, tuple[bytes, dict]] = {
    "half_a_character.jsonl": (LINES + b'\n{"answer": "\\ud800!"}', {"image": None, "question": None, "answer": "�!"}),
    "key_with_zero.jsonl": (
        LINES + b'\n{"answer": {"a\\u0000b": 1}}',
        dict(image=None, question=None, answer={"a\0b": 1}),
    ),
    "returns.jsonl": (LINES.replace(b"\n", b"\r"), ROWS[-1]),
    "mixed.jsonl": (LINES.replace(b"\n", b"\r", 5).replace(b"\n", b"\r\n", 5), ROWS[-1]),
    "returns.csv": (CSV.replace(b"\n", b"\r"), ROWS[-1]),
    "mixed.csv": (CSV.replace(b"\n", b"\r", 5).replace(b"\n", b"\r\n", 5), ROWS[-1]),
    "mark.csv": (b"\xef\xbb\xbf" + CSV, ROWS[-1]),
    "quote_within.csv": (CSV + b'a"b,c,d\n', {"image": 'a"b', "question": "c", "answer": "d"}),
    "not_a_number.jsonl": (b'{"n": 1}\n{"n": NaN}', {"n": None}),
    "large.jsonl": (b'{"n": 1.5}\n{"n": ' + b"9" * 400 + b"}", {"n": "9" * 400}),
    "forty_deep.jsonl": (DEEP % (b"[" * 40, b"]" * 40), json.loads(DEEP % (b"[" * 40, b"]" * 40))),
    "zeros_after.jsonl.gz": (gzip.compress(LINES) + bytes(100), ROWS[-1]),
    "magic.parquet": (b"XXXX" + PARQUET[4:], ROWS[-1]),
}


def write(folder: Path, name: str) -> Path:
    """One of the files, in a folder."""
    (folder / name).write_bytes((FILES.get(name) or READ[name])[0])
    return folder / name


def odd_paths(folder: Path) -> dict[Path, str]:
    """Paths that are no ordinary files, and a part of what is said of each."""
    os.mkfifo(folder / "pipe.jsonl")
    os.symlink("gone.jsonl", folder / "link.jsonl")
    os.symlink("circle.jsonl", folder / "circle.jsonl")
    (folder / "folder.jsonl").mkdir()
    return {
        folder / "pipe.jsonl": "is no ordinary file",
        folder / "link.jsonl": "is a link to gone.jsonl, which is not there",
        folder / "circle.jsonl": "is a link to circle.jsonl, which is not there",
        folder / "folder.jsonl": "cannot be read: ",
        Path("/dev/zero"): "is no ordinary file",
    }
