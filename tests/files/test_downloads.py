"""Pictures on the web, from a server on this machine: fetched when asked, once, within limits, or why not."""

import gzip
import io
import logging
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import httpx2
import numpy as np
import pytest
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image

from c3l_hf.common.errors import RowError
from c3l_hf.data.image_files import files_state, located, stored_here
from c3l_hf.data.sources import images_digest
from c3l_hf.data.stored_images import stored_images
from c3l_hf.files.addresses import download_problem, downloaded, is_address, shown_address
from c3l_hf.files.downloads import download_images
from c3l_hf.files.image import image_key, open_image
from c3l_hf.scoring.dataset import score_dataset
from c3l_hf.scoring.scorer import I2CScorer


def png(seed=0):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


class Pictures(BaseHTTPRequestHandler):
    """What is at the paths of the server; `asked` has every request, `broken` how often a path still fails."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        path = self.path.partition("?")[0]
        if self.server.broken.get(path, 0):
            self.server.broken[path] -= 1
            return self.answer(503, b"later", **{"Retry-After": "0"})
        if path.endswith(".png"):
            return self.answer(200, png(len(path)), "image/png")
        if path == "/gzip":
            return self.answer(200, gzip.compress(png(5), mtime=0), "image/png", **{"Content-Encoding": "gzip"})
        if path == "/bomb":
            return self.answer(
                200, gzip.compress(bytes(3_000_000), mtime=0), "image/png", **{"Content-Encoding": "gzip"}
            )
        if path == "/page":
            return self.answer(200, b"<!DOCTYPE html><html>not here</html>", "text/html")
        if path == "/text":
            return self.answer(200, b"hello", "text/plain; charset=utf-8")
        if path == "/to":
            return self.answer(302, b"", Location="/a.png")
        if path == "/round":
            return self.answer(302, b"", Location="/round")
        if path == "/nowhere":
            return self.answer(302, b"", Location="ftp://example.com/a.png")
        if path == "/file":
            return self.answer(302, b"", Location="file:///etc/hostname")
        if path == "/huge":
            return self.answer(200, bytes(1000), "image/png", **{"Content-Length": "5000000000"})
        if path == "/endless":
            return self.drip(bytes(100_000), 0.0, 10_000)
        if path == "/slow":
            return self.drip(b"x", 0.05, 10_000)
        return self.answer(404, b"no")

    def answer(self, code, content, kind="text/plain", **headers):
        self.send_response(code)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def drip(self, part, pause, times):
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(times):
                self.wfile.write(part)
                time.sleep(pause)
        except OSError:
            self.server.left.set()


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pictures)
    server.daemon_threads = True
    server.asked, server.broken, server.left = [], {}, threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_each_is_fetched_once_and_opened_by_its_address(server):
    address = f"{server.url}/a.png"
    with pytest.raises(RowError, match=r"is an address, .*/a\.png, which is not fetched; .* or use download_images"):
        open_image(address)
    assert not server.asked  # opening alone fetches nothing
    before = image_key(address), image_key({"url": address})
    done = download_images([address, address, "a.png", f"{server.url}/b.png", "file:///a.png"])
    assert (done.there, done.fetched, done.problems) == (0, 2, {})
    assert sorted(path for path, _ in server.asked) == ["/a.png", "/b.png"]
    for value in (address, {"url": address}, {"bytes": None, "path": address}):
        assert open_image(value).tobytes() == Image.open(io.BytesIO(png(6))).tobytes()
    assert image_key(address) not in before and image_key({"url": address}) == image_key(address)
    again = download_images([address, f"{server.url}/b.png"])
    assert (again.there, again.fetched) == (2, 0) and len(server.asked) == 2


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/none", "the server answers HTTP 404"),
        ("/page", "it is not a picture but a web page (HTML), perhaps of a download that failed"),
        ("/text", "it is not a picture but text/plain"),
        ("/round", "it leads to too many other addresses"),
        ("/file", "it is, or leads to, no http(s) address"),
        ("/nowhere", "it is, or leads to, no http(s) address"),
        ("/huge", "it has more than 2,000,000 bytes"),
        ("/endless", "it has more than 2,000,000 bytes"),
        ("/bomb", "it has more than 2,000,000 bytes"),
    ],
)
def test_what_cannot_be_had_says_why_and_is_not_asked_for_again(server, path, says, caplog):
    address = f"{server.url}{path}?token=secret"
    done = download_images([address, f"{server.url}/a.png"], max_bytes=2_000_000)
    assert done.problems == {address: says} and done.fetched == 1
    assert download_problem(address) == says and downloaded(address) is None
    with pytest.raises(RowError, match="could not be downloaded: ") as refused:
        open_image(address)
    assert says.partition(" (")[0] in str(refused.value) and len(str(refused.value)) <= 200
    assert "secret" not in str(refused.value) + caplog.text and f"1 × {says}" in caplog.text
    asked = len(server.asked)
    assert download_images([address], max_bytes=2_000_000).problems == {address: says}
    assert len(server.asked) == asked
    if "bytes" in says:
        download_images([address], max_bytes=2_500_000)
        assert len(server.asked) == asked + 1  # a higher limit may be enough


def test_content_that_is_packed_or_elsewhere(server):
    addresses = [f"{server.url}{path}" for path in ("/gzip", "/to")]
    assert download_images(addresses).fetched == 2
    assert open_image(addresses[0]).tobytes() == open_image(png(5)).tobytes()
    assert open_image(addresses[1]).tobytes() == open_image(png(6)).tobytes()


def test_a_picture_that_takes_too_long(server):
    address = f"{server.url}/slow"
    assert download_images([address], timeout=0.3).problems == {address: "it takes longer than 0.3 s"}
    assert server.left.wait(20)  # the connection is not kept
    asked = len(server.asked)
    download_images([address], timeout=0.3)
    assert len(server.asked) == asked + 1  # another time it may be faster


def test_a_server_that_fails_for_a_while_is_asked_again(server):
    server.broken = {"/a.png": 2, "/bb.png": 3}
    good, bad = f"{server.url}/a.png", f"{server.url}/bb.png"
    done = download_images([good, bad], retries=2, retry_wait=0)
    assert done.problems == {bad: "the server answers HTTP 503"} and downloaded(good)
    state = files_state(Dataset.from_dict({"image": [bad]}), "image")
    assert download_images([bad]).fetched == 1 and download_problem(bad) is None
    assert open_image(bad).size == (16, 16) and files_state(Dataset.from_dict({"image": [bad]}), "image") != state


def test_a_server_that_is_not_there(server):
    server.shutdown()
    server.server_close()
    address = f"{server.url}/a.png"
    assert download_images([address], retries=1, retry_wait=0).problems == {address: "the server cannot be reached"}


def test_a_server_that_is_gone_does_not_take_the_time_of_all_its_pictures(server, monkeypatch):
    server.shutdown()
    server.server_close()
    asked, plain = [], httpx2.Client.stream
    monkeypatch.setattr(httpx2.Client, "stream", lambda *words: asked.append(words[-1]) or plain(*words))
    addresses = [f"{server.url}/{number}.png" for number in range(30)]
    done = download_images(addresses, workers=1, retries=0)
    assert len(asked) == 10 and len(done.problems) == 30
    assert done.problems[addresses[0]] == "the server cannot be reached"
    assert done.problems[addresses[-1]] == "the server could not be reached 10 times"


def test_what_nobody_has_thought_of_is_one_of_many(server, monkeypatch):
    """A client that breaks at one address goes on with the others."""
    plain = httpx2.Client.stream

    def stream(client, method, address):
        return 1 / 0 if "odd" in address else plain(client, method, address)

    monkeypatch.setattr(httpx2.Client, "stream", stream)
    odd, good = f"{server.url}/odd.png", f"{server.url}/a.png"
    done = download_images([odd, good])
    assert done.problems == {odd: "it cannot be asked for (ZeroDivisionError)"} and done.fetched == 1


@pytest.mark.parametrize(
    "address", ["http://", "http://[", "http://a b/c.png", "http://\ud800.png", "http://x:99999/a"]
)
def test_what_is_no_address_at_all(server, address):
    done = download_images([address], retries=0)
    assert list(done.problems) == [address]
    with pytest.raises(RowError) as refused:
        open_image(address)
    assert str(refused.value).isprintable()


def test_secrets_in_addresses_go_to_the_server_only(server, caplog):
    caplog.set_level(logging.DEBUG, "c3l_hf")
    address = server.url.replace("//", "//me:password@") + "/none?token=secret#part"
    download_images([address])
    assert server.asked[0] == ("/none?token=secret", "Basic bWU6cGFzc3dvcmQ=")
    with pytest.raises(RowError) as refused:
        open_image(address)
    kept = [file.read_text() for file in Path(datasets.config.HF_DATASETS_CACHE).rglob("*") if file.is_file()]
    assert len(kept) == 1
    for text in (str(refused.value), caplog.text, *kept):
        assert "password" not in text and "secret" not in text
    assert f"{server.url}/none?…" in str(refused.value)


def test_an_address_as_it_is_shown():
    assert shown_address("https://me:pass@example.com:8080/a/b.png?x=1#y") == "https://example.com:8080/a/b.png?…"
    assert shown_address("http://a\x1b[31m/\ud800\n.png").isprintable()
    long = shown_address(f"https://example.com/{'a' * 500}/b.png")
    assert len(long) == 80 and long.startswith("https://example.com/aaa") and long.endswith("aaa/b.png")
    assert is_address("HTTPS://example.com/A.PNG") and not is_address("file:///a.png") and not is_address("a.png")


def test_digests_follow_what_is_downloaded(server, tmp_path):
    address = f"{server.url}/a.png"
    rows = Dataset.from_dict({"image": [address], "image_id": ["a"]}).cast_column("image", ImageFeature())
    items = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": address}}, {"text": "x"}]}]
    messages = Dataset.from_dict({"messages": [items]})
    inventory = tmp_path / "inventory.parquet"

    def states():
        return images_digest(rows, inventory), files_state(rows, "image"), files_state(messages, "messages")

    first = states()
    assert states() == first and stored_here({"bytes": None, "path": address}) is None
    download_images([address])
    second = states()
    assert all(one != other for one, other in zip(first, second)) and states() == second
    here = stored_here({"bytes": None, "path": address})
    assert here == {"bytes": None, "path": str(downloaded(address))}
    # Where images are stored it is the file, without another request.
    assert stored_images(rows, [0]) == [[here]]
    gone = Dataset.from_dict({"image": [f"{server.url}/z.png", None]}).cast_column("image", ImageFeature())
    assert stored_images(gone, [0, 1]) == [[{"bytes": None, "path": f"{server.url}/z.png"}], []]
    assert located(address, tmp_path) == address  # an address is in no folder


def test_scores_are_not_kept_from_before_a_download(server, llava, tmp_path):
    good, bad = f"{server.url}/a.png", f"{server.url}/none?token=secret"
    rows = {"image": [good, bad], "question": ["What is it?"] * 2, "answer": ["a dog"] * 2}
    rows, scorer = Dataset.from_dict(rows), I2CScorer(*llava)
    before = score_dataset(rows, scorer, cache_dir=tmp_path)
    assert all("which is not fetched" in status for status in before["i2c_status"])
    download_images(rows["image"])
    after = score_dataset(rows, scorer, cache_dir=tmp_path)
    assert after["i2c_status"][0] == "ok"
    assert "could not be downloaded: the server answers HTTP 404" in after["i2c_status"][1]
    (alone,) = scorer.score([{"image": png(6), "question": "What is it?", "answer": "a dog"}])
    assert after["pmi"][0] == pytest.approx(alone["pmi"], abs=1e-5)
    # Nor those of pictures in messages.
    item = {"type": "image_url", "image_url": {"url": f"{server.url}/b.png"}}
    messages = [
        {"role": "user", "content": [item, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "a dog"}]},
    ]
    talks = Dataset.from_dict({"messages": [messages]})
    assert "which is not fetched" in score_dataset(talks, scorer, cache_dir=tmp_path)["i2c_status"][0]
    download_images([f"{server.url}/b.png"])
    assert score_dataset(talks, scorer, cache_dir=tmp_path)["i2c_status"][:] == ["ok"]
    # A folder of pictures is no hindrance: an address is in none.
    (inside,) = I2CScorer(*llava, image_folder=tmp_path).score([rows[0]])
    assert inside["i2c_status"] == "ok"


def test_two_processes_at_once(server, tmp_path):
    """Two commands that know nothing of each other: what is there in the end is whole, and nobody fails."""
    code = (
        "import datasets, sys; from pathlib import Path; from c3l_hf.files.downloads import download_images; "
        "datasets.config.HF_DATASETS_CACHE = Path(sys.argv[1]); "
        "print(len(download_images(sys.argv[2:], retries=0).problems))"
    )
    addresses = [f"{server.url}/{'a' * number}.png" for number in range(1, 20)] + [f"{server.url}/none"]
    command = [sys.executable, "-c", code, str(tmp_path / "cache"), *addresses]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        out, errors = process.communicate(timeout=120)
        assert process.returncode == 0 and out.strip() == "1", errors
    assert all(open_image(address).size == (16, 16) for address in addresses[:-1])
    assert not list((tmp_path / "cache").rglob("*.partial"))


@pytest.mark.parametrize(
    "limit", [{"max_bytes": 0}, {"timeout": 0}, {"workers": 0}, {"retries": -1}, {"max_redirects": -1}]
)
def test_impossible_limits(limit):
    with pytest.raises(ValueError, match=f"{next(iter(limit))}.* must be above 0|not below 0"):
        download_images([], **limit)
