"""The report in a real browser: nothing overflows, no words overlap, both themes have contrast, nothing is fetched."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dist_mtl.tools.report import page
from tests.support.report_run import full_run, hostile_run, write

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    "--remote-debugging-pipe",
)
# The browser reads commands from file 3 and answers on file 4.
AS_3_AND_4 = """
import os, sys
commands, answers = map(int, sys.argv[1:3])
os.dup2(commands, 103)
os.dup2(answers, 4)
os.dup2(103, 3)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """A headless Chromium of its own profile, driven by the DevTools protocol."""

    def __enter__(self) -> "Browser":
        self.profile = tempfile.mkdtemp(prefix="report-browser-")
        theirs_in, self.write_end = os.pipe()
        self.read_end, theirs_out = os.pipe()
        command = [sys.executable, "-c", AS_3_AND_4, str(theirs_in), str(theirs_out), CHROMIUM, *FLAGS]
        self.process = subprocess.Popen(
            [*command, f"--user-data-dir={self.profile}", "about:blank"],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.rest, self.number, self.requests = b"", 0, []
        targets = self.call("Target.getTargets", session=False)["targetInfos"]
        target = next(one["targetId"] for one in targets if one["type"] == "page")
        self.session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True}, session=False)[
            "sessionId"
        ]
        for domain in ("Page", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(RuntimeError, BrokenPipeError):
            self.call("Browser.close", session=False)
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.write_end)
        os.close(self.read_end)
        shutil.rmtree(self.profile, ignore_errors=True)

    def message(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            if not (chunk := os.read(self.read_end, 1 << 20)):
                raise RuntimeError("the browser has ended")
            self.rest += chunk
        one, _, self.rest = self.rest.partition(b"\0")
        message = json.loads(one)
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])
        return message

    def call(self, method: str, params: dict | None = None, session: bool = True) -> dict[str, Any]:
        self.number += 1
        command = {"id": self.number, "method": method, "params": params or {}}
        if session:
            command["sessionId"] = self.session
        os.write(self.write_end, json.dumps(command).encode() + b"\0")
        while (answer := self.message()).get("id") != self.number:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def open(self, path: Path, width: int, scheme: str) -> None:
        """Show a file as a screen of this width and colour scheme does."""
        size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", {"features": features})
        self.requests.clear()
        self.call("Page.navigate", {"url": path.as_uri()})
        while self.message().get("method") != "Page.loadEventFired":
            pass

    def evaluate(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", {"expression": expression, "returnByValue": True})
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def screenshot(self) -> bytes:
        """The whole page, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", {"captureBeyondViewport": True})["data"])


pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on the PATH")
WIDTHS = (1280, 700, 390)
SCHEMES = ("light", "dark")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as one:
        yield one


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A full run, one of attacks and very long names, and one that has hardly begun."""
    folder = tmp_path_factory.mktemp("runs")
    runs = {"shop-esmm": full_run(), "<b>run": hostile_run(), "begun": full_run()[:6]}
    return {name: page.write(str(write(folder / name, events))) for name, events in runs.items()}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["shop-esmm", "<b>run", "begun"])
def test_the_page_never_scrolls_sideways(browser: Browser, pages: dict[str, Path], name: str, width: int) -> None:
    """Nothing sticks out of the window but what lies in a box that scrolls by itself."""
    browser.open(pages[name], width, "light")
    assert browser.evaluate("innerWidth") == width
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    outside = browser.evaluate(
        "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, nav') && !e.closest('svg svg')"
        " && e.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)"
        ".map(e => e.tagName + '.' + e.getAttribute('class') + ' ' + e.textContent.slice(0, 40))"
    )
    assert not outside, outside[:5]


@pytest.mark.parametrize("width", WIDTHS)
def test_no_cell_of_a_table_is_cut(browser: Browser, pages: dict[str, Path], width: int) -> None:
    """Only names of absurd length end in an ellipsis."""
    browser.open(pages["shop-esmm"], width, "light")
    cut = browser.evaluate(
        "[...document.querySelectorAll('th, td, th span, td span')].filter(e => e.scrollWidth > e.clientWidth + 1"
        " && getComputedStyle(e).display !== 'contents').map(e => e.textContent)"
    )
    assert not cut, cut[:5]


@pytest.mark.parametrize("name", ["shop-esmm", "<b>run", "begun"])
def test_words_of_a_chart_do_not_overlap_and_stay_inside(browser: Browser, pages: dict[str, Path], name: str) -> None:
    browser.open(pages[name], 1280, "light")
    clashes = browser.evaluate("""
        [...document.querySelectorAll('svg[role=img]')].flatMap(svg => {
            const box = svg.getBoundingClientRect();
            const texts = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
            const out = texts.filter(([_, r]) => r.left < box.left - 1 || r.right > box.right + 1
                || r.top < box.top - 2 || r.bottom > box.bottom + 2);
            const pairs = texts.flatMap(([a, r], i) => texts.slice(0, i).filter(([b, s]) => r.left < s.right - 1
                && s.left < r.right - 1 && r.top < s.bottom - 4 && s.top < r.bottom - 4).map(([b]) => [a, b]));
            return [...out.map(([a]) => ['outside', a]), ...pairs].map(p => [svg.getAttribute('aria-label'), ...p]);
        })""")
    print(browser.evaluate("document.querySelectorAll('svg text').length"), "words in charts")
    assert not clashes, clashes[:8]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_word_has_contrast(browser: Browser, pages: dict[str, Path], scheme: str) -> None:
    """WCAG 2.2 AA: 4.5 to 1 against whatever lies behind it."""
    browser.open(pages["shop-esmm"], 1280, scheme)
    weak, least = browser.evaluate("""(() => {
        const rgb = text => text.match(/[\\d.]+/g).map(Number);
        const light = c => { const v = c.slice(0, 3).map(x => { x /= 255;
            return x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4; });
            return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2] + 0.05; };
        const behind = e => { for (; e; e = e.parentElement) {
            const c = rgb(getComputedStyle(e).backgroundColor);
            if (c.length < 4 || c[3] === 1) return c; } };
        let least = 99;
        const weak = [...document.querySelectorAll('body *')].filter(e => !e.closest('title') && e.checkVisibility()
            && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())).flatMap(e => {
            const style = getComputedStyle(e), inside = e.namespaceURI.endsWith('svg');
            const a = light(rgb(inside ? style.fill : style.color)), b = light(behind(e));
            const ratio = Math.max(a, b) / Math.min(a, b);
            least = Math.min(least, ratio);
            return ratio < 4.5 ? [`${ratio.toFixed(2)} ${e.tagName} ${e.textContent.slice(0, 30)}`] : [];
        });
        return [weak, least];
    })()""")
    print(f"{scheme}: at least {least:.2f} to 1")
    assert not weak, weak[:5]


def test_the_themes_differ(browser: Browser, pages: dict[str, Path]) -> None:
    backs = set()
    for scheme in SCHEMES:
        browser.open(pages["shop-esmm"], 1280, scheme)
        backs.add(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(backs) == 2, backs


@pytest.mark.parametrize("name", ["shop-esmm", "<b>run"])
def test_nothing_is_fetched_and_nothing_runs(browser: Browser, pages: dict[str, Path], name: str) -> None:
    browser.open(pages[name], 1280, "light")
    assert browser.evaluate("[window.pwned ?? null, document.scripts.length, document.images.length]") == [None, 0, 0]
    assert browser.requests == [pages[name].as_uri()]


def test_the_configuration_opens_and_is_printed(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["shop-esmm"], 1280, "light")
    height = "document.querySelector('pre').getBoundingClientRect().height"
    assert not browser.evaluate(f"document.querySelector('pre').checkVisibility() && {height} > 0")
    browser.evaluate("document.querySelector('summary').click()")
    assert browser.evaluate(height) > 100
    assert "optim.embedding.lr = 0.02" in browser.evaluate("document.querySelector('pre').innerText")
    browser.evaluate("document.querySelector('summary').click()")
    browser.call("Emulation.setEmulatedMedia", {"media": "print"})
    assert browser.evaluate(height) > 100
    assert browser.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    browser.call("Emulation.setEmulatedMedia", {"media": ""})


def test_a_tooltip_tells_the_numbers(browser: Browser, pages: dict[str, Path]) -> None:
    """What lies under the pointer in the middle of a chart is a column with a title."""
    browser.open(pages["shop-esmm"], 1280, "light")
    title = browser.evaluate("""(() => {
        const svg = document.querySelector('svg[aria-label="PCOC"]');
        svg.scrollIntoView({block: 'center', behavior: 'instant'});
        const r = svg.getBoundingClientRect();
        return document.elementFromPoint(r.left + r.width / 2, r.top + r.height / 2).querySelector('title').textContent;
    })()""")
    print(title)
    assert title.startswith("step ") and all(f"\n{task} " in title for task in ("CTR", "CVR", "CTCVR"))
