"""The sentences of the summary: no gain is claimed that its interval denies."""

import json

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("pandas")

import pandas as pd

from figures.report import page, summary
from figures.report.runs import Training

NOTHING = Training(pd.DataFrame({"group": [], "method": [], "place": []}))


def said(tools, differences, column="over_baseline"):
    """What is said of method -> (difference, half-width)."""
    rows = [{"method": "baseline", column: None, f"{column}_half_width": None}]
    rows += [{"method": m, column: d, f"{column}_half_width": h} for m, (d, h) in differences.items()]
    table = pd.DataFrame(rows).astype({column: float, f"{column}_half_width": float}).assign(group="g")
    found = summary.against(table, column, "baseline", NOTHING)
    comparison = {"group": "g", "budget": "5s", "seeds": 2, "unequal": False, "diverged": []}
    comparison["against"] = {"the baseline": found}
    template = page.environment().get_template("summary.html")
    root = tools.read_page(template.render(verified=None, training=NOTHING, comparisons=[comparison]))
    return root.all("li")[0].text.replace("( ", "(").replace(" )", ")")


@pytest.mark.parametrize(
    ("difference", "half_width", "words"),
    [
        (0.02, 0.01, "Loss at exit 1 (+2.00 ± 1.00) ends above the baseline ."),
        (-0.02, 0.01, "Loss at exit 1 (-2.00 ± 1.00) ends below the baseline ."),
        (0.02, 0.03, "Loss at exit 1 (+2.00 ± 3.00) shows no difference from the baseline ."),
        # An interval that touches zero has it.
        (0.02, 0.02, "Loss at exit 1 (+2.00 ± 2.00) shows no difference from the baseline ."),
        (0.02, None, "Loss at exit 1 (+2.00) against the baseline: one seed, no interval, so nothing is shown ."),
        (None, None, "No difference from the baseline was recorded ."),
    ],
)
def test_one_method(tools, difference, half_width, words):
    assert said(tools, {"loss@1": (difference, half_width)}).replace(" .", ".") == words.replace(" .", ".")


def test_several_methods(tools):
    text = said(tools, {"loss@1": (0.02, 0.01), "entropy@1": (-0.03, 0.01), "margin@1": (0.5, 0.6)})
    assert "Loss at exit 1 (+2.00 ± 1.00) ends above the baseline" in text
    assert "entropy at exit 1 (-3.00 ± 1.00) ends below the baseline" in text
    assert "margin at exit 1 (+50.00 ± 60.00) shows no difference" in text


def test_of_many_methods_only_clear_ones_are_named(tools):
    differences = {f"loss@1:keep=0.{i}": (0.001 * i, 1.0) for i in range(1, 10)}
    assert said(tools, differences).startswith("9 methods show no difference from the baseline")
    text = said(tools, {**differences, "loss@2": (0.2, 0.1)})
    assert text.startswith("Loss at exit 2 (+20.00 ± 10.00) ends above the baseline")
    assert "9 other methods show no difference" in text
    assert "keep" not in text
    text = said(tools, {f"loss@{i}": (0.2, 0.1) for i in range(1, 11)})
    assert "and 4 more end above the baseline" in text


def test_of_a_recorded_comparison(tools, whole, page_text):
    """Differences by hand: loss@1 is +0.2 and +0.201 over the baseline; entropy@1 +0.05 and -0.02."""
    text = tools.read_page(page_text).id("summary").text
    assert "budget 5s, 2 seeds" in text
    # 12.706 = t(0.975, 1): half-width 12.706 * 0.0005 = 0.0064.
    assert "Loss at exit 1 ( +20.05 ± 0.64 ) ends above the baseline" in text
    # random: -0.03 and -0.029, clearly below; entropy: 0.015 ± 0.445.
    assert "random rows ( -2.95 ± 0.64 ) ends below the baseline" in text
    assert "entropy at exit 1 ( +1.50 ± 44.47 ) shows no difference from the baseline" in text
    assert "diverged in 1 of 2 runs" in text


def test_nothing_is_concluded_before_the_end(recorded, tools, tmp_path):
    recorded.write_comparison(tmp_path / "c", {"baseline": [[0.1], [0.2]], "loss@1": [[0.9], [0.9]]}, summary=False)
    path = tmp_path / "c" / "compare.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "seeds": 5}))
    text = tools.read_page(page.make(tmp_path)).id("summary").text
    assert "c is not finished: 4 of 10 runs have ended, and nothing is concluded" in text
    assert "above" not in text
