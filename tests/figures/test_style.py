"""Sizes, wrapped titles and legends."""

import matplotlib
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("pandas")

from figures import style


def test_a_screen_figure_is_a_printed_one_enlarged():
    shapes = {}
    for size in ("print", "screen"):
        with style.sheet(size):
            figure, axes = style.new(width=style.SINGLE_IN, height=2.0)
            shapes[size] = (*figure.get_size_inches(), matplotlib.rcParams["font.size"], axes.shape)
    assert shapes["print"] == (3.4, 2.0, 8.0, (1, 1))
    assert shapes["screen"][:3] == pytest.approx([3.4 * 1.45, 2.0 * 1.45, 8.0 * 1.45])
    assert matplotlib.rcParams["svg.hashsalt"] is None  # the style is put down again
    with pytest.raises(ValueError, match="size = 'wall' must be one of: print, screen"), style.sheet("wall"):
        pass


def test_titles_break_between_words_but_not_within_a_formula_or_an_equation():
    text = r"the bounds cross at $K_1 + K_2 = 3$ and B = 4 holds"
    lines = style.wrapped(text, 10 / style.CHARACTERS_PER_INCH).split("\n")
    assert " ".join(lines) == text
    assert r"$K_1 + K_2 = 3$" in lines
    assert "and B = 4" in lines
    assert max(map(len, style.wrapped("word " * 30, 20 / style.CHARACTERS_PER_INCH).split("\n"))) == 19


def test_a_dollar_in_a_name_begins_no_formula():
    assert style.wrapped(style.verbatim("cost$1 or $2"), 9) == r"cost\$1 or \$2"


def test_one_legend_names_each_method_once():
    with style.sheet():
        figure, axes = style.new(1, 2)
        for ax in axes.flat:
            ax.plot([0, 1], label="a")
            ax.plot([1, 0], label="b")
        style.legend_below(figure, axes, columns=2)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]
