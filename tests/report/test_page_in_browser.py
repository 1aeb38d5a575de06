"""The report in a real browser: what is shown, found, filtered, marked; and that nothing is asked of the network."""

import json
import re
from dataclasses import replace

from browsers import choose, keys, search, shown
from playwright.sync_api import expect
from report_content import COUNT, bars, report_content, shown_pair

from c3l_hf.report.page import write_page


def test_overview_and_gallery_are_shown(reader, report):
    page = reader.look(report)
    expect(page.locator("h1")).to_have_text("A small report", use_inner_text=True)
    expect(page.get_by_text("One picture cannot be read.")).to_be_visible()
    expect(page.get_by_text("30 dropped, for 2 reasons")).to_be_visible()
    expect(page.locator("figure svg")).to_have_attribute("aria-label", "How many pairs have which pmi.")
    assert shown(page) == "60 pairs"
    image = page.locator("#list img").first
    image.scroll_into_view_if_needed()
    assert image.evaluate("image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])") == [160, 96]
    first = page.locator(".pair[data-pair='0']")
    expect(first.locator(".question")).to_have_text("What is it, 0?", use_inner_text=True)
    expect(first.locator(".answer")).to_have_text("A blue thing0.", use_inner_text=True)
    expect(first.locator(".score")).to_have_text("−0.20", use_inner_text=True)


def test_tokens_have_the_colour_and_the_numbers_of_their_gain(reader, report):
    page = reader.look(report)
    tokens = page.locator(".pair[data-pair='0'] .t")
    # Every answer's strongest token has a gain of 2, where the scale ends, and a divergence of 1.5 of 2.
    assert [tokens.nth(n).get_attribute("class") for n in range(3)] == ["t", "t g5 d4", "t l3"]
    tokens.nth(1).hover()
    expect(page.locator("#tip")).to_have_text('"blue"   gain +2.00   divergence 1.50', use_inner_text=True)
    tokens.nth(2).click()  # as a tap
    expect(page.locator("#tip")).to_have_text('"thing0."   gain −1.00   no divergence', use_inner_text=True)
    blue = tokens.nth(1).evaluate("token => getComputedStyle(token).backgroundColor")
    assert tokens.nth(0).evaluate("token => getComputedStyle(token).backgroundColor") == "rgba(0, 0, 0, 0)"
    assert "−2 or less\n0\n+2 or more" in page.locator("#legend").inner_text()
    page.get_by_role("button", name="Divergence", exact=True).click()
    assert tokens.nth(1).evaluate("token => getComputedStyle(token).backgroundColor") not in (blue, "rgba(0, 0, 0, 0)")
    assert tokens.nth(2).evaluate("token => getComputedStyle(token).backgroundColor") == "rgba(0, 0, 0, 0)"


def test_tokens_by_keyboard(reader, report):
    page = reader.look(report)
    page.keyboard.press("j")
    page.wait_for_selector(".pair[data-current]")
    page.keyboard.press("Tab")
    assert page.locator("#tip").inner_text().startswith('"A"')
    page.keyboard.press("ArrowRight")
    assert page.locator("#tip").inner_text().startswith('"blue"')
    page.keyboard.press("Escape")
    expect(page.locator("#tip")).to_be_hidden()


def test_chosen_stands_beside_rejected(reader, report):
    page = reader.look(report, "#stage=first+round")
    card = page.locator(".card").first
    expect(card.locator(".side.chosen .pair")).to_have_attribute("data-pair", "0")
    expect(card.locator(".side.rejected .pair")).to_have_attribute("data-pair", "2")
    left, right = (card.locator(f".side.{role}").bounding_box() for role in ("chosen", "rejected"))
    assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]
    expect(card.locator(".neither")).to_have_count(0)


def test_what_is_neither_stands_apart(reader, tmp_path):
    """Below the others it would be read as chosen or rejected, too."""
    roles = ["chosen", None, "rejected"]
    rows = [shown_pair(number, role=role, stage="first round") for number, role in enumerate(roles)]
    page = reader.look(write_page(report_content(rows), tmp_path / "report.html")[0], "#stage=first+round")
    expect(page.locator(".neither + .pairs .pair")).to_have_attribute("data-pair", "1")
    expect(page.locator(".side .pair")).to_have_count(2)


def test_what_failed_is_shown_with_its_reason(reader, report):
    page = reader.look(report, "#status=the+reply+has+no+answer")
    assert keys(page) == ["key 8"]
    pair = page.locator(".pair")
    expect(pair.locator(".bad")).to_have_text("the reply has no answer", use_inner_text=True)
    expect(pair.locator(".raw")).to_have_text("Question: What?", use_inner_text=True)
    expect(page.locator(".unreadable")).to_have_text(
        "the image photo.jpg cannot be read: it is empty", use_inner_text=True
    )


def test_a_reason_is_whole_where_the_filter_has_its_kind(reader, tmp_path):
    rows = [shown_pair(n, status=f"{n + 300} tokens, but the model takes 256") for n in range(2)]
    path = write_page(report_content([*rows, shown_pair(2)]), tmp_path / "report.html")[0]
    page = reader.look(path, "#status=N+tokens,+but+the+model+takes+N")
    assert page.locator(".pair .bad").all_inner_texts() == [row.status for row in rows]


def test_filters(reader, report):
    page = reader.look(report)
    choose(page, "type", "colour")
    assert keys(page) == [f"key {n}" for n in range(1, COUNT, 2)] and shown(page) == "30 of 60 pairs"
    choose(page, "kept", "kept")
    assert keys(page) == []
    expect(page.get_by_text("No pair has all of this.")).to_be_visible()
    page.get_by_role("button", name="Type: colour: take off").click()
    assert keys(page) == [f"key {n}" for n in range(0, COUNT, 4)]
    choose(page, "role", "rejected")
    assert keys(page) == []
    choose(page, "kept", "")
    assert keys(page) == ["key 2"]
    page.get_by_role("button", name="Show all again").click()
    assert shown(page) == "60 pairs"


def test_the_range_of_a_score(reader, report):
    page = reader.look(report)
    page.locator("#score").select_option("answer_kl")
    page.locator("#from").fill("5")
    page.locator("#from").press("Tab")
    assert keys(page) == [f"key {n}" for n in range(COUNT) if n % 7 >= 5 and n != 8]
    page.locator("#below").fill("6")
    page.locator("#below").press("Tab")
    assert keys(page) == [f"key {n}" for n in range(COUNT) if n % 7 == 5]
    page.locator("#histogram").scroll_into_view_if_needed()
    box = page.locator("#histogram").bounding_box()
    page.mouse.move(box["x"] + 1, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    page.mouse.up()
    assert 0 < len(keys(page)) < COUNT - 1
    assert all(int(key.split()[1]) % 7 <= 3 for key in keys(page))
    box = page.locator("#histogram").bounding_box()  # the page has moved
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] + 40, box["y"] + 20)
    page.mouse.up()
    expect(page.locator("#below")).to_have_value("")
    expect(page.locator("#from")).to_have_value("3")


def test_orders_and_presets(reader, report):
    page = reader.look(report)
    page.get_by_role("button", name="Most negative").click()
    assert keys(page)[:3] == ["key 0", "key 1", "key 2"] and keys(page)[-1] == "key 8"  # which has no score
    page.get_by_role("button", name="Near the threshold").click()
    assert keys(page)[0] == "key 30" and set(keys(page)[1:3]) == {"key 29", "key 31"}  # 0.1
    page.locator("#sort").select_option("-pmi")
    assert keys(page)[:2] == ["key 59", "key 58"] and keys(page)[-1] == "key 8"
    page.locator("#sort").select_option("shortest")
    assert keys(page)[:2] == ["key 8", "key 0"]


def test_search_in_questions_and_answers(reader, report):
    page = reader.look(report)
    search(page, "WHAT IS IT, 5")
    page.wait_for_function("() => order.length === 11")
    assert keys(page) == ["key 5", *(f"key {n}" for n in range(50, 60))]
    assert page.evaluate("CSS.highlights.get('found').size") >= 4  # of those near the view
    search(page, "blue THING17.")
    page.wait_for_function("() => order.length === 1")
    assert keys(page) == ["key 17"]
    assert page.evaluate("[...CSS.highlights.get('found')].map(String)") == ["blue thing17."]
    search(page, "nothing like it")
    page.wait_for_function("() => order.length === 0")


def test_a_bar_filters_by_click_and_by_key(reader, report):
    page = reader.look(report)
    page.locator("#hist-bar-0").click()  # all below 0.0 of the first round, which is every other pair
    assert keys(page) == [f"key {n}" for n in range(0, 20, 2) if n != 8]
    assert page.locator("#gallery").evaluate("gallery => document.activeElement === gallery")
    bar = page.get_by_role("button", name="Show the pairs with pmi from 0.20, first round")
    bar.focus()
    bar.press("Enter")
    assert keys(page) == [f"key {n}" for n in range(40, COUNT, 2)]


def test_bars_without_pairs_are_no_buttons(reader, tmp_path):
    chart = bars()
    empty = replace(
        chart, svg=chart.svg.replace('x="20" y="0" width="18" height="40"', 'x="20" y="40" width="18" height="0"')
    )
    page = reader.look(write_page(report_content([shown_pair(0)], charts=[empty]), tmp_path / "report.html")[0])
    assert [bar.get_attribute("id") for bar in page.locator("figure [role=button]").all()] == [
        f"hist-bar-{n}" for n in (0, 2, 3)
    ]


def test_links_to_pairs(reader, report):
    page = reader.look(report, "#pair=key+59")
    page.wait_for_selector(".pair[data-pair='59'][data-current]")
    assert page.locator(".pair[data-pair='59']").evaluate("pair => pair.getBoundingClientRect().top < innerHeight")
    page.evaluate("location.hash = 'pair=key+3'")
    page.wait_for_selector(".pair[data-pair='3'][data-current]")
    choose(page, "type", "count")
    page.evaluate("location.hash = 'pair=key+5'")  # which the filter hides
    page.wait_for_selector(".pair[data-pair='5'][data-current]")
    assert shown(page) == "60 pairs"
    page.evaluate("location.hash = 'type=count&pair=key+7'")
    page.wait_for_selector(".pair[data-pair='7'][data-current]")
    page.locator(".pair[data-pair='4'] .actions a").click()
    assert page.evaluate("location.hash") == "#pair=key+4"
    page.evaluate("location.hash = 'pair=key+999'")
    page.get_by_text("No pair of this report has the key key 999.").wait_for()


def test_the_address_keeps_the_view(reader, report):
    page = reader.look(report)
    choose(page, "stage", "second round")
    page.locator("#sort").select_option("-answer_kl")
    page.locator("#below").fill("0.2")
    page.locator("#below").press("Tab")
    before = keys(page)
    page.goto("about:blank")
    page.go_back()
    page.wait_for_selector("html[data-ready]", state="attached")
    assert keys(page) == before and len(before) == 20
    expect(page.locator("#below")).to_have_value("0.2")
    other = reader.look(report, "#stage=none+such&sort=constructor&score=__proto__&from=abc&mark=toString&image=x")
    assert shown(other) == "60 pairs"


def test_pictures_lead_to_their_pairs_and_to_those_that_look_alike(reader, report):
    page = reader.look(report)
    page.locator(".card").first.get_by_role("button", name="all 3 pairs").click()
    assert keys(page) == ["key 0", "key 1", "key 2"]
    alike = page.locator(".alike").first
    expect(alike.get_by_role("button")).to_have_count(1)  # the other one cannot be read
    alike.get_by_role("button", name="The pairs of picture image-3").click()
    assert keys(page) == ["key 9", "key 10", "key 11"]


def test_marks_are_set_kept_exported_and_imported(reader, report, tmp_path):
    page = reader.look(report)
    page.locator(".pair[data-pair='1']").get_by_role("button", name="Keep").click()
    page.keyboard.press("j")
    page.wait_for_selector(".pair[data-pair='2'][data-current]")
    page.keyboard.press("n")
    expect(page.locator("#marked")).to_have_text("1 to keep, 1 to reject", use_inner_text=True)
    page.reload()
    page.wait_for_selector("html[data-ready]", state="attached")
    expect(page.locator(".pair[data-pair='2']")).to_have_attribute("data-mark", "reject")
    choose(page, "mark", "keep")
    assert keys(page) == ["key 1"]
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    assert download.value.suggested_filename == "marks.json"
    path = tmp_path / "marks.json"
    download.value.save_as(path)
    exported = json.loads(path.read_text())
    rows = [(number, shown_pair(number), mark) for number, mark in ((1, "keep"), (2, "reject"))]
    assert exported == {
        "c3l_marks": 1,
        "title": "A small report",
        "marks": [
            {"key": pair.key, "pair_id": pair.pair_id, "digest": pair.digest, "stage": pair.stage, "mark": mark}
            for _, pair, mark in rows
        ],
    }
    exported["marks"][1]["digest"] = "of other texts"
    exported["marks"] += [{"key": "none", "mark": "keep"}, {"key": "key 7", "mark": "maybe"}, None]
    path.write_text(json.dumps(exported))
    other = reader.look(report)  # another window, which has no marks
    expect(other.locator("#marked")).to_have_text("None yet.", use_inner_text=True)
    other.locator("#import").set_input_files(path)
    other.get_by_text(re.compile("1 mark taken. 2 are of pairs .* 2 are neither")).wait_for()
    assert other.evaluate("[...marks]") == [["key 1", "keep"]]
    path.write_text("[]")
    other.locator("#import").set_input_files(path)
    other.get_by_text("marks.json is not a file of marks").wait_for()
    other.keyboard.press("Escape")
    other.locator(".pair[data-pair='1']").click()
    other.keyboard.press("u")
    expect(other.locator("#marked")).to_have_text("None yet.", use_inner_text=True)


def test_marks_of_two_windows_and_files_that_contradict_themselves(reader, report, tmp_path):
    window = reader.window()
    one, other = reader.look(report, window=window), reader.look(report, window=window)
    one.evaluate("setMark(0, 'keep')")
    other.wait_for_function("() => marks.size === 1")
    other.evaluate("setMark(1, 'reject')")
    one.wait_for_function("() => marks.size === 2")
    expect(one.locator("#marked")).to_have_text("1 to keep, 1 to reject", use_inner_text=True)
    mark = {"key": "key 5", "digest": shown_pair(5).digest, "mark": "keep"}
    path = tmp_path / "marks.json"
    path.write_text(json.dumps({"c3l_marks": 1, "marks": [mark, {**mark, "mark": "reject"}]}))
    one.locator("#import").set_input_files(path)
    one.get_by_text("marks.json marks the same pair keep and reject; nothing was imported.").wait_for()
    assert one.evaluate("marks.size") == 2
    one.evaluate('localStorage.setItem(storageName, \'[1, null, ["x"], ["key 0", "keep"]]\')')
    one.reload()
    one.wait_for_selector("html[data-ready]", state="attached")
    assert one.evaluate("[...marks]") == [["key 0", "keep"]]


def test_many_pairs_are_not_all_in_the_page(reader, tmp_path):
    rows = [shown_pair(number, picture=number // 100) for number in range(3000)]
    page = reader.look(write_page(report_content(rows), tmp_path / "report.html")[0])
    assert page.evaluate("document.querySelectorAll('.pair').length") < 600
    page.evaluate("goTo(2999)")
    page.wait_for_selector(".pair[data-pair='2999'][data-current]")
    page.wait_for_selector(".pair[data-pair='0']", state="detached")
    assert page.evaluate("document.querySelectorAll('.pair').length") < 1200


def test_phone_dark_and_print(reader, report):
    page = reader.look(report, viewport={"width": 360, "height": 700}, color_scheme="dark", has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.locator("#filters summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 21, 24)"
    page.get_by_role("button", name="Dark or light").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(247, 247, 245)"
    page.evaluate("change({ type: 'count' })")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    page.wait_for_function("() => document.querySelectorAll('.pair').length === 30")
    expect(page.locator(".controls")).to_be_hidden()
    expect(page.locator(".actions").first).to_be_hidden()
    expect(page.locator(".answer").last).to_be_visible()
    expect(page.locator("h1")).to_be_visible()


def test_help_and_its_keys(reader, report):
    page = reader.look(report)
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Help")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("/")
    page.keyboard.type("jk?")  # letters, not commands
    page.wait_for_function("() => state.q === 'jk?'")
    page.keyboard.press("Escape")
    page.keyboard.press("t")
    expect(page.locator("html")).to_have_attribute("data-colour", "divergence")
