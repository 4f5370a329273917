"""Recorded outcomes of `gsgd verify`, folders of results, a reader of the page that knows HTML alone, a browser."""

import importlib.util
import json
import shutil
from html.parser import HTMLParser

import pytest

if any(importlib.util.find_spec(package) is None for package in ("matplotlib", "pandas", "jinja2")):
    collect_ignore_glob = ["test_*.py"]

ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run"),
]
VOID = ("br", "input", "link", "meta")
HOSTILE = "<script>window.ran = 1</script></style><img src=x onerror='window.ran = 1'> \"quoted\" & 'so'"
HOSTILE_NAME = '<img src=x onerror=window.ran=1>"&'
"""For what figures write beside their axes, where there is little room, and for folders, which have no slash."""
STATEMENTS = ("Theorem 5.7", "Theorem 5.8", "Equation 5", "Lemma C.1", "Beyond C.1", "Table 6")


def check(number, **values):
    """A check, of which the status goes round and values are round."""
    statement = STATEMENTS[number * len(STATEMENTS) // 24] if number < 24 else "Table 6"
    status = ("proved", "consistent", "proved", "refuted", "assumption-violated", "proved")[number % 6]
    has_none = status == "assumption-violated"
    wrong = status == "refuted" and number % 4 == 1
    return {
        "name": f"subject.check_{number}",
        "statement": statement,
        "claim": f"as printed: claim {number} of them" if wrong else f"claim {number} holds",
        "route": "monte-carlo" if status == "consistent" else ("exact", "closed-form")[number % 2],
        "scope": "samples" if status == "consistent" else ("instances", "everywhere")[number % 2],
        "expected": status,
        "status": status,
        "value": None if has_none else 1 + number / 3,
        "bound": None if has_none else 2.0,
        # In no order, so that sorting has something to do, and one of each kind that is odd to sort.
        "slack": None if has_none else "inf" if number == 2 else ((7 * number) % 24 - 8) / 10**6,
        "witness": f"witness {number}" if status in ("refuted", "assumption-violated") else None,
        "detectable": 0.01 if status == "consistent" else None,
        "seconds": (5 * number) % 24 / 10,
        **values,
    }


def write_verify(folder, checks=None, **header):
    """theory/verify.json. Returns the checks."""
    checks = [check(number) for number in range(24)] if checks is None else checks
    content = {
        "header": {
            "date": "2025-03-04T05:06:07+00:00",
            "commit": "0123456789abcdef",
            "python": "3.11.1",
            "machine": "a machine",
            "versions": {"gsgd": "9.8.7"},
            "command": "gsgd verify",
            "seed": 3,
            "alpha": 1e-5,
            **header,
        },
        "checks": checks,
    }
    (folder / "theory").mkdir(parents=True, exist_ok=True)
    (folder / "theory" / "verify.json").write_text(json.dumps(content))
    return checks


class Node:
    """An element of a page."""

    def __init__(self, name, attributes=(), parent=None):
        self.name, self.attributes, self.parent, self.children = name, dict(attributes), parent, []

    def __getitem__(self, attribute):
        return self.attributes[attribute]

    def get(self, attribute):
        return self.attributes.get(attribute)

    def walk(self):
        yield self
        for child in self.children:
            if isinstance(child, Node):
                yield from child.walk()

    def all(self, name, class_=None):
        return [
            node
            for node in self.walk()
            if node.name == name and (class_ is None or class_ in (node.get("class") or "").split())
        ]

    def id(self, wanted):
        return next((node for node in self.walk() if node.get("id") == wanted), None)

    @property
    def text(self):
        parts = (child if isinstance(child, str) else child.text for child in self.children)
        return " ".join(" ".join(parts).split())


class Reader(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.root = self.here = Node("page")

    def handle_starttag(self, tag, attributes):
        node = Node(tag, attributes, self.here)
        self.here.children.append(node)
        if tag not in VOID:
            self.here = node

    def handle_startendtag(self, tag, attributes):
        self.here.children.append(Node(tag, attributes, self.here))

    def handle_endtag(self, tag):
        assert self.here.name == tag, f"</{tag}> closes <{self.here.name}>"
        self.here = self.here.parent

    def handle_data(self, data):
        self.here.children.append(data)


def read_page(text):
    """The root of a page, in which every element was closed."""
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.here is reader.root
    return reader.root


@pytest.fixture(scope="session")
def tools():
    """The functions of this file."""
    from types import SimpleNamespace

    return SimpleNamespace(
        check=check, write_verify=write_verify, read_page=read_page, hostile=HOSTILE, hostile_name=HOSTILE_NAME
    )


@pytest.fixture(scope="session")
def whole(recorded, tmp_path_factory):
    """Results in which nothing is missing: checks, the theory's tables, a comparison, a run and a diagnosis."""
    folder = tmp_path_factory.mktemp("whole")
    recorded.write_theory(folder)
    write_verify(folder)
    curves = {
        "baseline": [[0.2, 0.40, 0.50], [0.3, 0.50, 0.60]],
        "random": [[0.2, 0.40, 0.47], [0.3, 0.50, 0.571]],
        "loss@1": [[0.3, 0.50, 0.70], [0.4, 0.60, 0.801]],
        "entropy@1": [[0.2, 0.45, 0.55], [0.3, 0.50, 0.58]],
        "loss@1:keep=0.7": [[0.2, 0.3, 0.45], None],
    }
    provenance = {
        "command": "gsgd compare tiny",
        "date": "2025-02-03T04:05:06+00:00",
        "commit": "fedcba",
        "device": "X9",
    }
    values = {"overlap": 0.8, "rank_correlation": 0.5}
    recorded.write_comparison(folder / "tiny-5s", curves, target=0.45, values=values, header=provenance)
    alone = recorded.write_run(folder / "alone", [0.1, 0.2], "loss@1", 4, name="solo/one", header=provenance)
    recorded.write_log(alone, [{0: True, 1: False}, {0: True, 1: False, 2: True}])
    recorded.write_readings(folder / "tiny-5s", [recorded.reading(step) for step in (10, 20, 30)])
    factors = {"loss@1": (1.4, 1.2, 1.6)}
    recorded.write_ladder(folder / "ladder-tiny", factors, in_seconds=factors)
    point = (0, "undecided", None, [recorded.exit_of(1, 0.2, 1.1)])
    recorded.write_diagnosis(folder / "diagnose-tiny", point, **{"loss@1": 1.3})
    return folder


@pytest.fixture(scope="session")
def page_text(whole):
    from figures.report import page
    from figures.results import Results

    return page.make(Results(whole))


# ---- A browser ----


@pytest.fixture(scope="session")
def chromium():
    """Debian's Chromium, headless, for tests of the marker browser."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("there is no chromium on the PATH: apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api", reason="pip install 'gsgd[dev]' brings playwright")
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """Opens a page; at the end nothing may have gone wrong on it, and nothing may have been asked of the network."""
    contexts, wrong = [], []

    def open_page(path, **options):
        contexts.append(chromium.new_context(**{"viewport": {"width": 1280, "height": 800}, **options}))
        page = contexts[-1].new_page()
        allowed = path.resolve().as_uri()
        page.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: None if request.url in (allowed, "data:,") else wrong.append(request.url))
        page.goto(allowed)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong


@pytest.fixture(scope="session")
def path(page_text, tmp_path_factory):
    """The page of `whole` as a file."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page_text)
    return path
