"""Every language says everything, with the same places for numbers; and the pages hold in a real browser."""

from __future__ import annotations

import re
import shutil
import string
import subprocess

import pytest

from fastunlearn.audit._words import LANGUAGES, words
from fastunlearn.audit.html import report_html
from fastunlearn.errors import InvalidInputError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def places(text: str) -> list[str]:
    return sorted(name or "" for _, name, _, _ in string.Formatter().parse(text) if name is not None)


@pytest.mark.parametrize("language", [one for one in LANGUAGES if one != "en"])
def test_the_same_keys_and_places(language):
    english, other = words("en"), words(language)
    assert english.keys() == other.keys()
    for key, text in english.items():
        if isinstance(text, str):
            assert places(text) == places(other[key]), key
        else:
            assert len(text) == len(other[key]) and all(map(len, other[key])), key


def test_an_unknown_language(document):
    with pytest.raises(InvalidInputError, match="use one of en, ja"):
        report_html(document, "xx")


def test_no_english_is_left_in_the_japanese_page(document):
    """Besides names, settings and figures, which come with the document."""
    page = report_html(document, "ja")
    assert '<html lang="ja">' in page
    for key, text in words("en").items():
        lines = [text] if isinstance(text, str) else list(text)
        for part in [part for line in lines for part in ([line] if isinstance(line, str) else line)]:
            if len(part) > 14 and not places(part):
                assert part not in page, key


@pytest.mark.parametrize("language", list(LANGUAGES))
def test_the_first_page_and_the_model_card(document, language):
    w, page = words(language), report_html(document, language)
    for key in ("decision", "removed", "sure", "cost", "open", "card", "card_limit"):
        assert w[key] in page, key
    assert page.index(w["open"]) < page.index("<svg") < page.index(w["card"])
    first = page[page.index('class="boxes"') : page.index("<figure")]
    shares = [f"{share}\u202f%" for share in ("9.0", "98.0", "9.5", "96.8")]
    for number in ("63", "0.0172", "0.52", "0.46", "1\u202f206", *shares):
        assert number in first, number


def test_the_first_page_without_a_reference_or_held_out_records(document):
    document["reference"] = None
    for item in (document["original"], *document["methods"].values()):
        item["metrics"]["membership"] = item["metrics"]["exposure_forget"] = None
    page = report_html(document)
    assert words("en")["sure_no_reference"] in page and words("en")["sure_no_membership"] in page
    document["methods"] = {}
    assert 'class="boxes"' not in report_html(document)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [1280, 500])
@pytest.mark.parametrize("language", list(LANGUAGES))
def test_in_a_browser_nothing_sticks_out(document, tmp_path, language, width):
    """500 pixels is the narrowest window of a headless Chromium; the body is made 390 wide in it, as a phone's."""
    page = report_html(document, language)
    narrow = "body { width: 390px !important; }" if width == 500 else ""
    script = (
        f"<style>{narrow}</style><script>const w = document.body.getBoundingClientRect().right;"
        "const out = [...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, svg, details') && "
        "e.getBoundingClientRect().right > w + 1).map(e => e.tagName + '.' + e.className);"
        "document.title = 'measured ' + out.length + ' ' + out.slice(0, 5).join(' ');</script></body>"
    )
    path = tmp_path / "page.html"
    path.write_text(page.replace("</body>", script), encoding="utf-8")
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900", "--dump-dom",
         f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert re.search(r"<title>measured (.*?)</title>", done.stdout)[1] == "0 ", done.stdout[:200]
