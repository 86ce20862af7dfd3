"""The page of a server that has keys, in a real browser."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serve.access.allowance import at_hand
from serve.access.budget import Ledger
from serve.access.keys import New, entry_text
from serve.settings import Settings
from tests.serve.listening import Listening, listening

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
ALICE, METRICS = "aigc_secret_of_alice", "aigc_secret_of_m"

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: the page was not rendered"),
    pytest.mark.timeout(120),
]


@pytest.fixture(scope="module")
def guarded(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    """Alice may draw 20 samples, and one more every 100 s."""
    folder = tmp_path_factory.mktemp("guarded")
    keys = folder / "keys.toml"
    keys.write_text(
        entry_text(New(action="new", name="alice", samples_per_s=0.01, burst=20), ALICE)
        + entry_text(New(action="new", name="m", scope=("metrics",)), METRICS)
    )
    settings = Settings(metrics_dir=str(folder), keys=str(keys))
    with listening(settings, f"{store}/tiny@1", take_budget=at_hand(Ledger())) as served:
        yield served


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    switches = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=switches)
        yield browser
        browser.close()


def test_the_page_asks_for_a_key_and_says_what_it_may(guarded: Listening, browser: Any) -> None:
    context = browser.new_context()
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda e: wrong.append(str(e)))
    page.on(
        "console",
        # A refusal is an error to the browser, too.
        lambda m: wrong.append(m.text) if m.type == "error" and "status of 4" not in m.text else 0,
    )
    page.goto(guarded.url)
    error = page.locator("#error")
    error.get_by_text("No valid key: this server wants a key").wait_for()
    assert page.locator("#key").is_visible()
    assert not page.locator("#metrics").is_visible()

    page.fill("#key", "made up")
    page.click("#use-key")
    error.get_by_text("No valid key: the key is not one of this server's").wait_for()

    page.fill("#key", METRICS)
    page.click("#use-key")
    error.get_by_text("Not allowed: this needs the scope 'sample'").wait_for()

    page.fill("#key", ALICE)
    page.press("#key", "Enter")
    page.locator("#said-seed").get_by_text("0", exact=True).wait_for()
    assert page.locator("#grid img").count() == 16
    assert not error.is_visible()
    curl, aigc = page.inner_text("#curl"), page.inner_text("#aigc")
    assert '-H "Authorization: Bearer $AIGC_KEY"' in curl
    assert ALICE not in curl + aigc

    page.click("#go")
    error.get_by_text("Too much at once: key 'alice' may draw 0.01 samples per second").wait_for()
    assert "; try again in 1" in error.inner_text()

    page.reload()  # the tab remembers it
    error.get_by_text("Too much at once").wait_for()
    assert page.input_value("#key") == ALICE
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    assert ALICE not in page.url

    other = browser.new_context().new_page()  # and no other
    other.goto(guarded.url)
    other.locator("#error").get_by_text("No valid key").wait_for()
    assert other.input_value("#key") == ""
    assert wrong == []


def test_without_keys_there_is_no_field_for_them(
    store: Path, metrics_dir: Path, browser: Any
) -> None:
    with listening(Settings(metrics_dir=str(metrics_dir)), f"{store}/tiny@1") as served:
        page = browser.new_page()
        page.goto(served.url)
        page.locator("#said-seed").get_by_text("0", exact=True).wait_for()
        assert not page.locator("#key").is_visible()
        assert page.locator("#metrics").is_visible()
        assert "Authorization" not in page.inner_text("#curl")
