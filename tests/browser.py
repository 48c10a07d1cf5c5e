"""What a browser makes of a page: parsed without one, and looked at in a headless one where there is one."""

import re
import shutil
import subprocess
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


class Page(HTMLParser):
    """What a browser would open, close, show and fetch."""

    VOID = ("meta", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.links, self.text = [], [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for key, value in attrs if key in ("src", "href", "srcset", "data", "action", "poster")]
        self.open += [] if tag in self.VOID else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def widths(page: Path, width: int, folder: Path) -> tuple[int, int, list[str]]:
    """The page's own width in a window of `width` pixels, how many pictures failed, and what the console said."""
    frame = folder / "frame.html"
    measure = (
        "const inner = document.querySelector('iframe').contentDocument; document.title = "
        "[inner.documentElement.scrollWidth, [...inner.images].filter(i => !i.naturalWidth).length].join(' ')"
    )
    frame.write_text(
        f'<iframe style="width: {width}px; height: 700px; border: 0" srcdoc="{escape(page.read_text())}"></iframe>'
        f"<script>onload = () => {{ {measure} }}</script>"
    )
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--enable-logging=stderr",
        "--dump-dom",
    ]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000", f"file://{frame}"]
    ran = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120, check=True)
    said = [line for line in ran.stderr.splitlines() if "CONSOLE" in line]
    found = re.search(r"<title>(\d+) (\d+)</title>", ran.stdout)
    assert found, ran.stdout[-300:]
    return int(found[1]), int(found[2]), said
