"""The console in a real browser, in front of a real service."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM, "tests/ensure_packages.sh installs a browser"
    with sync_playwright() as playwright:
        # A container's root has no sandbox of its own.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    page.close()
    assert errors == []


def remember(service, user: str, *item_ids: str) -> None:
    events = [{"user_id": user, "item_id": item_id} for item_id in item_ids]
    assert httpx.post(f"{service.url}/events", json={"events": events}, timeout=60).status_code == 200


def test_a_user_s_history_list_and_rounds(service, page: Page) -> None:
    remember(service, "mia", "3", "4", "5")
    page.goto(f"{service.url}/console")
    page.get_by_label("User").fill("mia")
    page.keyboard.press("Enter")
    expect(page.locator("#history li")).to_have_count(3)
    expect(page.locator("#list li")).to_have_count(10)
    expect(page.locator("#rounds-section")).to_be_visible()
    if os.environ.get("SHOT"):
        page.screenshot(path=os.environ["SHOT"], full_page=True)


def ask(service, page: Page, user: str, more: str = "") -> None:
    page.goto(f"{service.url}/console?user={user}{more}")
    expect(page.locator("#rounds-section")).to_be_visible()


def titles(page: Page, place: str) -> list[str]:
    return page.locator(f"{place} li .title").all_inner_texts()


def test_rounds_tell_what_became_of_every_token(service, page: Page) -> None:
    remember(service, "noa", "7", "8")
    # The very answer that the page has: asked again, as much is guessed as is fastest then, in other rounds.
    with page.expect_response("**/recommend/stream") as told:
        ask(service, page, "noa")
    answer = json.loads(told.value.text().split("event: done\ndata: ")[1].split("\n")[0])
    assert [item["item_id"] for item in answer["items"]] == titles(page, "#list")
    again = httpx.post(f"{service.url}/recommend", json={"user_id": "noa"}, timeout=60).json()
    assert [item["item_id"] for item in again["items"]] == titles(page, "#list")
    rounds = answer["explanation"]["rounds"]
    expect(page.locator("#rounds > li")).to_have_count(len(rounds))
    tokens = [token for one in rounds for token in one["tokens"]]
    expected = {
        "accepted": sum(t["accepted"] and t["drafted"] and not t["forced"] for t in tokens),
        "own": sum(not t["drafted"] and not t["forced"] for t in tokens),
        "forced": sum(t["accepted"] and t["forced"] for t in tokens),
    }
    for kind, count in expected.items():
        expect(page.locator(f"#rounds .token.{kind}")).to_have_count(count)
    guesses = page.locator("#rounds .token.rejected").count()
    assert guesses >= answer["explanation"]["rejected_tokens"]


def test_meeting_an_item_makes_it_history(service, page: Page) -> None:
    ask_new = f"{service.url}/console?user=olu"
    page.goto(ask_new)
    expect(page.locator("#history-note")).to_have_text("Nothing yet.")
    expect(page.locator("#list-note")).to_contain_text("popular items: cold start")
    met = page.locator("#list li").first.get_attribute("data-item")
    page.locator("#list li button").first.click()
    expect(page.locator("#history li")).to_have_count(1)
    expect(page.locator("#list-note")).to_contain_text("rounds of")
    assert page.locator("#history li").get_attribute("data-item") == met
    assert met not in titles(page, "#list")


def test_filters_and_beams(service, page: Page) -> None:
    remember(service, "pia", "3", "4", "5")
    ask(service, page, "pia", "&beam=1&n=5")
    expect(page.locator("#beam li")).to_have_count(5)
    expect(page.locator("#beam-note")).to_contain_text("of 5 in both")
    page.get_by_role("button", name="Add a condition").click()
    page.keyboard.type("category")  # it has the focus
    page.get_by_label("comparison").select_option("is one of")
    page.get_by_label("value").fill("pens, ink")
    page.keyboard.press("Enter")
    for place in ("#list", "#beam"):
        expect(page.locator(f"{place} li .more").filter(has_text="pens")).to_have_count(5)
        expect(page.locator(f"{place} li")).to_have_count(5)


def test_what_is_wrong_is_said(service, page: Page) -> None:
    page.goto(f"{service.url}/console")
    page.get_by_role("button", name="Add a condition").click()
    page.get_by_label("attribute").fill("colour")
    page.get_by_label("value").fill("red")
    page.get_by_label("User").fill("quin")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("colour")
    page.get_by_role("button", name="Remove this condition").click()
    page.get_by_role("button", name="Recommend").click()
    expect(page.locator("#list li")).to_have_count(10)
    expect(page.get_by_role("alert")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_by_day_and_by_night(service, browser: Browser, scheme: str) -> None:
    remember(service, "rex", "3", "4", "5")
    page = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True)
    ask(service, page, "rex", "&beam=1")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    luminance = page.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    )
    assert (sum(luminance) < 3 * 64) == (scheme == "dark")
    if os.environ.get("SHOT"):
        page.screenshot(path=os.environ["SHOT"] + f"-{scheme}.png", full_page=True)
    page.close()


def test_users_to_pick(serve, bundle: Path, tmp_path: Path, page: Page) -> None:
    with serve(bundle, tmp_path / "h.sqlite3", PADREC_GATEWAY__EXAMPLE_USERS='["zoe", "yan"]') as service:
        page.goto(f"{service.url}/console?user=typed")
        expect(page.locator("#list li")).to_have_count(10)
        page.goto(f"{service.url}/console")
        offered = page.locator("#users option")
        expect(offered).to_have_count(3)
        assert offered.evaluate_all("all => all.map((one) => one.value)") == ["typed", "zoe", "yan"]


def test_nothing_but_the_console_s_own_is_loaded(service) -> None:
    answer = httpx.get(f"{service.url}/console")
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    script = httpx.get(f"{service.url}/console/console.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert script.headers["content-security-policy"] == answer.headers["content-security-policy"]
    for path in ("/console/../rest.py", "/console/%2e%2e/__init__.py", "/console/none.js"):
        assert httpx.get(f"{service.url}{path}").status_code == 404
