"""The page in a real browser: keys, sounds that play, and one thing from another."""

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from aigc.artifact import audio_files, image_files
from aigc.sealing import seal
from serve.access.api_keys import CreateKey, key_entry
from serve.access.rate_ledger import Ledger
from serve.access.rate_limiter import in_process
from serve.settings import Settings
from tests.sealing.foreign import vocoder
from tests.serve.browser import ALICE, CHROMIUM, METRICS
from tests.serve.listening import Listening, listening, settled

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: the page was not rendered"),
    pytest.mark.timeout(120),
]


@pytest.fixture(scope="module")
def guarded(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    """Alice may draw 20 samples, and one more every 100 s."""
    folder = tmp_path_factory.mktemp("guarded")
    keys = folder / "keys.toml"
    keys.write_text(
        key_entry(CreateKey(action="new", name="alice", samples_per_s=0.01, burst=20), ALICE)
        + key_entry(CreateKey(action="new", name="m", scope=("metrics",)), METRICS)
    )
    settings = Settings(metrics_dir=str(folder), keys=str(keys))
    with listening(settings, f"{store}/tiny@1", take_budget=in_process(Ledger())) as served:
        yield served


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


def test_page_has_no_key_field_without_keys(store: Path, metrics_dir: Path, browser: Any) -> None:
    with listening(Settings(metrics_dir=str(metrics_dir)), f"{store}/tiny@1") as served:
        page = browser.new_page()
        page.goto(served.url)
        page.locator("#said-seed").get_by_text("0", exact=True).wait_for()
        assert not page.locator("#key").is_visible()
        assert page.locator("#metrics").is_visible()
        assert "Authorization" not in page.inner_text("#curl")


@pytest.fixture
def page(
    voices: str, translator: str, metrics_dir: Path, browser: Any
) -> Iterator[tuple[Any, Listening]]:
    """The page of a server with a model of sound and one of three modalities."""
    wrong: list[str] = []
    with listening(Settings(metrics_dir=str(metrics_dir)), voices, translator) as served:
        page = browser.new_page()
        page.on("pageerror", lambda e: wrong.append(str(e)))
        page.on(
            "console",
            lambda m: (
                wrong.append(m.text) if m.type == "error" and "status of 4" not in m.text else 0
            ),
        )
        page.goto(served.url)
        page.locator("#model option").nth(1).wait_for(state="attached")
        yield page, served
        page.close()
    assert wrong == []


def test_sounds_are_seen_played_and_saved(
    page: tuple[Any, Listening], voices: str, tmp_path: Path
) -> None:
    browser_page, served = page
    browser_page.select_option("#model", "voices@1")
    browser_page.select_option("#label", "3")
    browser_page.select_option("#n", "4")
    tiles = browser_page.locator("#grid .play")
    browser_page.get_by_label("play sample 3 class Two").wait_for()
    settled(lambda: tiles.count() == 4)
    assert browser_page.locator("#grid img").count() == 0
    drawn = "b => b.firstChild.getContext('2d').getImageData(0, 0, 240, 240).data.some(v => v)"
    assert tiles.first.evaluate(drawn)
    browser_page.evaluate(
        """() => { window.ended = []; const play = Audio.prototype.play;
        Audio.prototype.play = function () {
          this.addEventListener("ended", () => window.ended.push(this.duration));
          return play.call(this); } }"""
    )
    tiles.first.click()
    settled(lambda: browser_page.evaluate("window.ended.length") == 1)
    assert browser_page.evaluate("window.ended[0]") == pytest.approx(0.05, abs=0.01)
    assert browser_page.locator(".playing").count() == 0
    with browser_page.expect_download() as download:
        browser_page.click("#download")
    assert download.value.suggested_filename == "voices-1-seed0.wav"
    data = Path(download.value.path()).read_bytes()
    body = {"model": "voices", "seed": 0, "label": 3, "format": "wav"}
    assert data == httpx.post(f"{served.url}/v1/samples", json=body).content


def test_page_sends_drawing_text_and_recording_as_inputs(page: tuple[Any, Listening]) -> None:
    browser_page, _ = page
    sent: list[Any] = []
    browser_page.on("request", lambda r: sent.append(r.post_data_json) if r.post_data else None)
    browser_page.select_option("#model", "translator@1")
    browser_page.select_option("#n", "1")
    assert browser_page.locator("#grid li").count() == 0  # nothing is given yet
    box = browser_page.locator("#drawing").bounding_box()
    browser_page.mouse.move(box["x"] + 20, box["y"] + 20)
    browser_page.mouse.down()
    browser_page.mouse.move(box["x"] + 80, box["y"] + 90, steps=5)
    browser_page.mouse.up()
    browser_page.locator("#grid li img").wait_for()
    assert browser_page.locator("#grid li .words").inner_text() != ""
    assert browser_page.locator("#grid li .play").count() == 1
    assert list(sent[-1]["inputs"]) == ["image"]
    drawing, _ = image_files.read_png(base64.b64decode(sent[-1]["inputs"]["image"]))
    assert drawing.shape[:2] == (128, 128)
    assert drawing.max() == 255

    browser_page.fill("#text", "badge")
    browser_page.press("#text", "Tab")
    browser_page.locator("#curl").get_by_text("badge").wait_for()
    assert sent[-1]["inputs"]["text"] == "badge"

    browser_page.click("#record")  # it ends by itself
    browser_page.locator("#heard .play").wait_for()
    browser_page.locator("#curl").get_by_text("audio.wav").wait_for()
    said = audio_files.read_sound(base64.b64decode(sent[-1]["inputs"]["audio"]))
    assert said.samples.shape[1] > said.rate_hz
    assert set(sent[-1]["inputs"]) == {"image", "text", "audio"}
    browser_page.click("#clear")
    browser_page.fill("#text", "bad z")
    browser_page.press("#text", "Tab")
    browser_page.locator("#error").get_by_text("vocabulary lacks").wait_for()
    browser_page.fill("#text", "")
    browser_page.press("#text", "Tab")
    browser_page.locator("#error").wait_for(state="hidden")


def test_page_shows_an_error_for_files_that_cannot_be_read(page: tuple[Any, Listening]) -> None:
    browser_page, _ = page
    browser_page.select_option("#model", "translator@1")
    files = (("image", "picture"), ("audio", "sound"))
    for kind, what in files:
        for data in (b"RIFF....WAVE", b"nothing"):
            file = {"name": "a.bin", "mimeType": "audio/wav", "buffer": data}
            browser_page.set_input_files(f"#{kind}-file", file)
            browser_page.locator("#error").get_by_text(f"This {what} cannot be read").wait_for()
            assert browser_page.locator("#heard .play").count() == 0
            browser_page.fill("#text", "a" if browser_page.input_value("#text") == "" else "")
            browser_page.press("#text", "Tab")
            browser_page.locator("#error").wait_for(state="hidden")


def test_page_stays_usable_when_the_model_changes_during_a_request(
    page: tuple[Any, Listening],
) -> None:
    browser_page, _ = page
    browser_page.select_option("#model", "voices@1")
    browser_page.locator("#grid .play").first.wait_for()
    held: list[Any] = []
    browser_page.route("**/v1/samples", lambda route: held.append(route))
    browser_page.click("#go")
    settled(lambda: browser_page.locator("#go").is_disabled())
    browser_page.select_option("#model", "translator@1")  # which waits for something given
    settled(lambda: bool(held))
    held[0].continue_()
    browser_page.unroute("**/v1/samples")
    assert browser_page.locator("#go").is_enabled()
    assert browser_page.locator("#grid.busy").count() == 0
    assert browser_page.locator("#grid li").count() == 0


def test_page_command_sends_texts_as_form_strings(page: tuple[Any, Listening]) -> None:
    browser_page, _ = page
    browser_page.select_option("#model", "translator@1")
    browser_page.fill("#text", "badge")
    browser_page.press("#text", "Enter")
    browser_page.locator("#curl").get_by_text("--form-string text='badge'").wait_for()


def test_page_timer_of_an_earlier_recording_does_not_end_the_next(
    page: tuple[Any, Listening],
) -> None:
    browser_page, _ = page
    sent: list[Any] = []
    browser_page.on("request", lambda r: sent.append(r.post_data_json) if r.post_data else None)
    browser_page.select_option("#model", "translator@1")
    browser_page.click("#record")
    browser_page.locator("#record.recording").wait_for()
    browser_page.wait_for_timeout(1200)
    browser_page.click("#record")
    browser_page.locator("#record:not(.recording)").wait_for()
    browser_page.click("#record")
    browser_page.locator("#record.recording").wait_for()
    browser_page.locator("#record:not(.recording)").wait_for()
    settled(lambda: len([body for body in sent if body.get("inputs")]) == 2)
    said = audio_files.read_sound(base64.b64decode(sent[-1]["inputs"]["audio"]))
    assert said.samples.shape[1] > 1.4 * said.rate_hz


HOSTILE = """-it's "$(touch pwned)" `touch pwned` $HOME; touch pwned & \\ !x *\n-d @/etc/passwd"""


def words_of(command: str, tmp_path: Path) -> list[str]:
    """The arguments that a shell gives to the program of a command line."""
    folder = tmp_path / "shell"
    folder.mkdir(exist_ok=True)
    defined = 'curl() { printf \'%s\\0\' "$@"; }; aigc() { curl "$@"; }\n'
    ran = subprocess.run(
        ["/bin/bash", "-c", defined + command], cwd=folder, capture_output=True, timeout=10
    )
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert not [*folder.iterdir()]
    return ran.stdout.decode().split("\0")[:-1]


def test_commands_hold_names_of_strangers_as_they_are(
    page: tuple[Any, Listening], tmp_path: Path
) -> None:
    browser_page, served = page
    models = httpx.get(f"{served.url}/v1/models").json()
    for model in models["data"]:
        for name, signature in [*model["signatures"].items()]:
            model["signatures"][f"{name}{HOSTILE}"] = signature
    browser_page.route("**/v1/models", lambda route: route.fulfill(json=models))

    def answer(route: Any) -> None:
        body = route.request.post_data_json
        body["signature"] = body.get("signature", "sample").removesuffix(HOSTILE)
        route.continue_(post_data=json.dumps(body))

    browser_page.route("**/v1/samples", answer)
    browser_page.reload()
    browser_page.locator("#model option").nth(1).wait_for(state="attached")

    browser_page.select_option("#model", "voices@1")
    browser_page.select_option("#signature", f"sample{HOSTILE}")
    browser_page.locator("#curl").get_by_text("touch pwned").wait_for()
    given = words_of(browser_page.text_content("#curl"), tmp_path)
    assert given[:2] == [f"{served.url}/v1/samples", "-o"]
    assert json.loads(given[given.index("-d") + 1])["signature"] == f"sample{HOSTILE}"
    given = words_of(browser_page.text_content("#aigc"), tmp_path)
    assert given[:2] == ["sample", served.url]
    assert given[given.index("--signature") + 1] == f"sample{HOSTILE}"

    browser_page.select_option("#model", "translator@1")
    browser_page.select_option("#signature", f"translate{HOSTILE}")
    browser_page.fill("#text", "badge")
    browser_page.press("#text", "Tab")
    browser_page.locator("#curl").get_by_text("--form-string text='badge'").wait_for()
    given = words_of(browser_page.text_content("#curl"), tmp_path)
    assert f"signature=translate{HOSTILE}" in given
    assert given[given.index(f"signature=translate{HOSTILE}") - 1] == "--form-string"


def test_page_takes_numbers_of_an_input_or_json(
    metrics_dir: Path, browser: Any, tmp_path: Path
) -> None:
    uri = seal(
        vocoder(tmp_path / "v.onnx"), name="voice", store=tmp_path / "store", sample_rate=16000
    )
    with listening(Settings(metrics_dir=str(metrics_dir)), uri) as served:
        page = browser.new_page()
        wrong: list[str] = []
        page.on("pageerror", lambda e: wrong.append(str(e)))
        sent: list[Any] = []
        page.on("request", lambda r: sent.append(r.post_data_json) if r.post_data else None)
        page.goto(served.url)
        field = page.locator('#give-vector textarea[name="mel"]')
        field.wait_for()
        assert "mel: 4 × 8 numbers" in page.locator("#give-vector").inner_text()
        assert not page.locator("#drawing").is_visible()
        page.select_option("#n", "1")
        mel = np.arange(32).reshape(4, 8) / 8
        error = page.locator("#error")
        for text in (" ".join(map(str, mel.ravel())), json.dumps(mel.tolist())):
            field.fill(text)
            field.press("Tab")
            page.locator("#grid .play").wait_for()
            page.locator("#curl").get_by_text("3.875").wait_for()
            assert sent[-1]["inputs"] == {"mel": mel.tolist()}
            words = words_of(page.text_content("#curl"), tmp_path)
            assert json.loads(words[words.index("-d") + 1])["inputs"] == {"mel": mel.tolist()}
            field.fill("1, 2")
            field.press("Tab")
            error.get_by_text("mel takes 4 × 8 numbers, got 2; other sizes as JSON").wait_for()
            field.fill("")
            field.press("Tab")
            error.wait_for(state="hidden")
            assert page.locator("#grid li").count() == 0
        field.fill("many")
        field.press("Tab")
        error.get_by_text("mel takes numbers between blanks or commas, or JSON").wait_for()
        field.fill("[1, 2]")
        field.press("Tab")
        error.get_by_text("finite numbers of shape (4, 8) are wanted").wait_for()
        assert wrong == []


def test_page_offers_the_sizes_of_free_axes(
    free: Path, tiled: str, metrics_dir: Path, browser: Any
) -> None:
    with listening(Settings(metrics_dir=str(metrics_dir)), str(free), tiled) as served:
        page = browser.new_page()
        page.goto(served.url)
        page.locator("#said-seed").get_by_text("0", exact=True).wait_for()
        natural = "[...document.querySelectorAll('#grid img')].map((i) => i.naturalHeight)"
        page.select_option("#n", "1")
        page.locator("#curl").get_by_text('"n":1,').wait_for()
        assert page.locator('#sizes input[name="h"]').input_value() == "4"
        page.fill('#sizes input[name="h"]', "11")
        page.press('#sizes input[name="h"]', "Enter")
        page.locator("#aigc").get_by_text("--sizes h 11").wait_for()
        settled(lambda: page.evaluate(natural) == [22])
        page.fill('#sizes input[name="h"]', "13")
        assert not page.locator('#sizes input[name="h"]').evaluate("(i) => i.checkValidity()")

        page.select_option("#model", "up@1")
        page.select_option("#signature", "sample")
        page.fill('#sizes input[name="height"]', "30")  # is made of tiles
        assert page.locator('#sizes input[name="height"]').evaluate("(i) => i.checkValidity()")
        page.click("#go")
        settled(lambda: page.evaluate(natural) == [60])
        page.fill('#sizes input[name="height"]', "70000")
        page.click("#go")
        page.locator("#error").get_by_text("a multiple of 2 in [4, 65536], got 70000").wait_for()
