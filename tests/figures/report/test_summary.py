"""The sentences of the summary: no gain is claimed that its interval denies."""

import json

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("pandas")

import pandas as pd

from figures.report import page, summary
from figures.report.runs import Training

NOTHING = Training(pd.DataFrame({"group": [], "method": [], "place": []}))


def said(tools, *comparisons, column="over_baseline"):
    """What is said of comparisons, each method -> (difference, half-width), called a, b, ... ."""
    rows = []
    for group, differences in zip("abc", comparisons, strict=False):
        rows.append({"group": group, "method": "baseline", column: None, f"{column}_half_width": None})
        rows += [
            {"group": group, "method": m, column: d, f"{column}_half_width": h} for m, (d, h) in differences.items()
        ]
    table = pd.DataFrame(rows).astype({column: float, f"{column}_half_width": float})
    found = summary.answer(table, column, "baseline", "the baseline", NOTHING)
    compared = summary.Compared(list(table["group"].unique()), [found], [])
    template = page.environment().get_template("summary.html")
    root = tools.read_page(template.render(verified=None, training=NOTHING, compared=compared, exhibits=[]))
    return root.all("li")[0].text.replace("( ", "(").replace(" )", ")").replace(" .", ".").replace(" ,", ",")


@pytest.mark.parametrize(
    ("difference", "half_width", "words"),
    [
        (0.02, 0.01, "1 of 1 difference is clear: loss at exit 1 (+2.00 ± 1.00) above, none below."),
        (-0.02, 0.01, "1 of 1 difference is clear: none above, loss at exit 1 (-2.00 ± 1.00) below."),
        (0.02, 0.03, "none of 1 difference is clear. 1 is not: its interval holds zero."),
        # An interval that touches zero has it.
        (0.02, 0.02, "none of 1 difference is clear. 1 is not: its interval holds zero."),
        (0.02, None, "none of 1 difference is clear. 1 is of one seed, has no interval and shows nothing."),
        (None, None, "no difference was recorded."),
    ],
)
def test_one_method(tools, difference, half_width, words):
    assert said(tools, {"loss@1": (difference, half_width)}) == f"Against the baseline {words}"


def test_several_methods(tools):
    text = said(tools, {"loss@1": (0.02, 0.01), "entropy@1": (-0.03, 0.01), "margin@1": (0.5, 0.6)})
    assert text == (
        "Against the baseline 2 of 3 differences are clear: loss at exit 1 (+2.00 ± 1.00) above, "
        "entropy at exit 1 (-3.00 ± 1.00) below. 1 is not: its interval holds zero."
    )


def test_many_methods_are_counted(tools):
    differences = {f"loss@1:keep=0.{i}": (0.001 * i, 1.0) for i in range(1, 10)}
    assert said(tools, differences).endswith("none of 9 differences is clear. 9 are not: their intervals hold zero.")
    text = said(tools, {**differences, **{f"loss@{i}": (0.2, 0.1) for i in range(1, 5)}, "margin@1": (-0.2, 0.1)})
    assert "5 of 14 differences are clear: 4 above, margin at exit 1 (-20.00 ± 10.00) below." in text
    assert "keep" not in text


def test_several_comparisons_are_named_with_those_that_show_nothing(tools):
    clear, unclear = (0.02, 0.01), (0.02, 0.03)
    text = said(tools, {"loss@1": clear, "random": unclear}, {"loss@1": unclear}, {"loss@1": unclear, "random": clear})
    assert "2 of 5 differences are clear: loss at exit 1 in a (+2.00 ± 1.00) and random rows in c" in text
    assert text.endswith("3 are not: their intervals hold zero, among them all of b.")


def test_of_a_recorded_comparison(tools, whole, page_text):
    """Differences by hand: loss@1 is +0.2 and +0.201 over the baseline; entropy@1 +0.05 and -0.02."""
    text = tools.read_page(page_text).id("summary").text
    assert "budget 5s, 2 seeds" in text
    # 12.706 = t(0.975, 1): half-width 12.706 * 0.0005 = 0.0064.
    assert "2 of 3 differences are clear: loss at exit 1 ( +20.05 ± 0.64 ) above" in text
    # random: -0.03 and -0.029, clearly below; entropy: 0.015 ± 0.445.
    assert "random rows ( -2.95 ± 0.64 ) below. 1 is not: its interval holds zero." in text
    assert "diverged in 1 of 2 runs" in text


def test_nothing_is_concluded_before_the_end(recorded, tools, tmp_path):
    from figures.results import Results

    recorded.write_comparison(tmp_path / "c", {"baseline": [[0.1], [0.2]], "loss@1": [[0.9], [0.9]]}, summary=False)
    path = tmp_path / "c" / "compare.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "seeds": 5}))
    text = tools.read_page(page.make(Results(tmp_path))).id("summary").text
    assert "c is not finished: 4 of 10 runs have ended, and nothing is concluded" in text
    assert "above" not in text
