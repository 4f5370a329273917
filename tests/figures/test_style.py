"""Sizes, wrapped titles and legends."""

import struct

import matplotlib
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("pandas")

from matplotlib.backends.backend_agg import FigureCanvasAgg

from figures import style, write


def test_a_screen_figure_is_a_printed_one_enlarged():
    with style.sheet():
        assert matplotlib.rcParams["font.size"] == style.POINTS == 8
        figure, axes = style.new(width=style.SINGLE_IN, height=2.0)
        axes[0, 0].plot([0, 1], label="a")
        svg = {size: write.encode(figure, "svg", size).decode() for size in ("print", "screen")}
        png = {size: write.encode(figure, "png", size) for size in ("print", "screen")}
        with pytest.raises(ValueError, match="size = 'wall' must be one of: print, screen"):
            write.encode(figure, "png", "wall")
    assert matplotlib.rcParams["svg.hashsalt"] is None  # the style is put down again
    assert 'width="244.8pt" height="144pt" viewBox="0 0 244.8 144"' in svg["print"]
    assert 'width="354.96pt" height="208.8pt" viewBox="0 0 244.8 144"' in svg["screen"]
    # All else is the same; a picture has 1.45 times as many points either way.
    assert svg["print"].split("viewBox")[1] == svg["screen"].split("viewBox")[1]
    width, height = (dict(zip(png, each, strict=True)) for each in zip(*map(_pixels, png.values()), strict=True))
    assert (width["print"], height["print"]) == (748, 440)
    assert (width["screen"], height["screen"]) == (1084, 638)


def _pixels(png):
    return struct.unpack(">II", png[16:24])


def test_titles_break_between_words_but_not_within_a_formula_or_an_equation():
    text = r"the bounds cross at $K_1 + K_2 = 3$ and B = 4 holds"
    lines = style.wrapped(text, 0.7).split("\n")
    assert " ".join(lines) == text
    assert r"$K_1 + K_2 = 3$" in lines
    assert "and B = 4" in lines


def test_titles_are_as_wide_as_there_is_room():
    with style.sheet():
        figure, axes = style.new(width=3.4)
        style.title(axes[0, 0], r"wide words such as MMMM WWWW @@@@ and $\sigma^2$ ill, " * 5, width=3.4, left=1.0)
        FigureCanvasAgg(figure).draw()
        # A line ends within the room, but not before the next word would have ended beyond it.
        width = axes[0, 0]._left_title._get_layout(figure.canvas.get_renderer())[0].width / figure.dpi
    assert 2.4 - 0.6 < width <= 2.42


def test_a_dollar_in_a_name_begins_no_formula():
    assert style.wrapped(style.verbatim("cost$1 or $2"), 9) == r"cost\$1 or \$2"


def test_long_names_lose_their_middle():
    assert style.shortened("a" * 40, 40) == "a" * 40
    assert style.shortened("abcdefghij", 7) == "abc…hij"
    assert style.shortened("abcdefghij", 6) == "abc…ij"


def test_names_are_broken_between_their_parts():
    assert style.broken("loss at exit 1, keep 0.7", width=40) == "loss at exit 1, keep 0.7"
    assert style.broken("loss at exit 1, keep 0.7", width=20) == "loss at exit 1,\nkeep 0.7"
    many = ", ".join(["loss at exit 1", *(f"change {i}" for i in range(9))])
    assert style.broken(many, width=20) == "loss at exit 1,\nchange 0, change 1,\n… change 8"
    lines = style.broken(f"loss at exit 1, {'x' * 90}", width=20).split("\n")
    assert lines == ["loss at exit 1,", f"{'x' * 9}…{'x' * 9}"]
    assert style.broken("cost$1, cost$2") == r"cost\$1, cost\$2"


def test_a_legend_has_as_many_columns_as_fit():
    def columns(labels, most):
        with style.sheet():
            figure, axes = style.new(width=style.DOUBLE_IN)
            for label in labels:
                axes[0, 0].plot([0, 1], label=label)
            style.legend_below(figure, axes, columns=most)
            FigureCanvasAgg(figure).draw()
        (legend,) = figure.legends
        assert legend.get_window_extent().width <= figure.bbox.width
        return legend._ncols

    assert columns("abcd", 4) == 4
    assert columns("abcd", 3) == 3
    assert columns([f"{i}{'a word ' * 6}" for i in range(4)], 4) == 2
    assert columns([f"{i}{'x' * 90}" for i in range(4)], 4) == 2
    # Formulas are left as they are.
    assert columns([rf"$\frac{{1}}{{2}}$ {i} {'x' * 60}" for i in range(2)], 2) == 1


def test_a_legend_may_be_put_in_order():
    with style.sheet():
        figure, axes = style.new()
        for label in "abc":
            axes[0, 0].plot([0, 1], label=label)
        style.legend_below(figure, axes, columns=2, order=["c", "b"])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["c", "b", "a"]


def test_one_legend_names_each_method_once():
    with style.sheet():
        figure, axes = style.new(1, 2)
        for ax in axes.flat:
            ax.plot([0, 1], label="a")
            ax.plot([1, 0], label="b")
        style.legend_below(figure, axes, columns=2)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]
