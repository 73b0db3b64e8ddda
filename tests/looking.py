"""Looking at pages: parsed, and in a browser."""

import json
from html.parser import HTMLParser

HOSTILE = "<script>document.title='stolen'</script>"
PROVENANCE = {
    "commit": "3f2a9c1 (dirty)",
    "data": f"digits {HOSTILE}",
    "seeds": [0, 1, 2],
    "versions": {"python": "3.11", "torch": "2.15"},
    "command": "python -m kdlib report",
}
VERDICTS = [
    ("F1", "holds", 8),
    ("F2a", "not under this reading", 8),
    ("F3", "contradicted", 8),
    ("F4 AdaAlpha", "not decided", 3),
    ("F4 AdaMargin", "not tested", 8),
]
CARDS = [
    {"study": "digits", "finding": finding, "pair": f"cnn → {HOSTILE}", "claim": "It helps."}
    | {"verdict": verdict, "seeds": seeds, "planned": 8, "preliminary": seeds < 8}
    | {"sentence": f"+1.4 points; {HOSTILE}."}
    for finding, verdict, seeds in VERDICTS
]
VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}


class Document(HTMLParser):
    """What a page holds: each start tag, its attributes, the text in it. Fails on tags that do not
    pair."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes), []))
        if tag not in VOID:
            self.open.append(self.tags[-1])

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes), []))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1][0] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        for _, _, words in self.open:
            words.append(data)

    def all(self, tag, **wanted):
        return [
            ("".join(words), attributes)
            for name, attributes, words in self.tags
            if name == tag and all(attributes.get(k) == v for k, v in wanted.items())
        ]


TEXT = "p, a, li, h1, h2, h3, h4, th, td, dt, dd, summary, figcaption, caption, code, pre, "
TEXT += "pre span, .verdict"


CONTRAST = """
const parts = colour => colour.match(/[\\d.]+/g).map(Number);
const linear = v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
const luminance = ([r, g, b]) => .2126 * linear(r) + .7152 * linear(g) + .0722 * linear(b);
const paper = e => { const [r, g, b, a] = parts(getComputedStyle(e).backgroundColor);
                     return a === 0 ? paper(e.parentElement) : [r, g, b]; };
return [...document.querySelectorAll(arguments[0])]
    .filter(e => e.checkVisibility() && e.textContent.trim())
  .map(e => { const ink = luminance(parts(getComputedStyle(e).color)) + .05;
              const ground = luminance(paper(e)) + .05;
              const name = e.tagName + " " + e.textContent.slice(0, 30);
              return [Math.max(ink / ground, ground / ink), name]; });
"""


def look(browser, width, scheme="light", media=""):
    """Show what is open at a width, a colour scheme and as a medium ("": its own, the screen unless
    it is printed)."""
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    media = {"media": media, "features": features}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def unfold(browser, unfolded=True):
    browser.execute_script(
        "document.querySelectorAll('details').forEach(e => e.open = arguments[0])", unfolded
    )


def requested(browser):
    """Addresses that the network was asked for since this was last called, those inside the page
    (data:) left out."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"
    ]
    return [address for address in asked if not address.startswith("data:")]
