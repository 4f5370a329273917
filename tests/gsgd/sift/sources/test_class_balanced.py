"""The class-balanced control: counts of classes against those of dealing one row a class in turn."""

from collections import Counter

import pytest

torch = pytest.importorskip("torch")
from small_training import OneLayer  # noqa: E402

from gsgd.sift import ClassBalanced, Sift  # noqa: E402

LABELS = [0] * 9 + [1] * 4 + [2] * 1 + [3] * 2


def batch():
    return {"x": torch.randn(len(LABELS), 5), "labels": torch.tensor(LABELS)}


def dealt(kept):
    """Class -> how many rows it gets, a full round at a time; the last round may be of any of the classes left."""
    left, found = Counter(LABELS), Counter()
    while kept >= len(left := +left):
        for name in left:
            found[name] += 1
            kept -= 1
        left -= Counter(dict.fromkeys(left, 1))
    return found, kept, set(left)


@pytest.mark.parametrize("keep", [0.125, 0.25, 0.5, 0.75])
def test_classes_are_as_even_as_the_batch_allows(keep):
    sift = Sift(OneLayer(classes=4), score=ClassBalanced(), keep=keep)
    whole, rest, left = dealt(round(keep * len(LABELS)))
    seen = set()
    for _ in range(20):
        sift.choose(batch())
        counts = Counter(LABELS[row] for row in sift.last.indices.tolist())
        over = counts - whole
        assert whole - counts == Counter()
        assert over.total() == rest
        assert set(over) <= left
        assert all(number == 1 for number in over.values())
        seen.add(tuple(sift.last.indices.tolist()))
    assert len(seen) > 5  # it draws


def test_rows_of_a_class_come_evenly():
    """Of 9 rows of class 0 one is kept, over 900 draws: frequencies within 5 sigma, which errs 1 in 190,000."""
    sift = Sift(OneLayer(classes=4), score=ClassBalanced(), keep=0.25)
    counts = Counter()
    for _ in range(900):
        sift.choose(batch())
        counts.update(sift.last.indices.tolist())
    spread = (900 * 1 / 9 * 8 / 9) ** 0.5
    assert all(abs(counts[row] - 100) < 5 * spread for row in range(9))


def test_a_seed_draws_alike_and_a_reading_draws_nothing():
    rows = []
    for reads in (False, True):
        sift = Sift(OneLayer(classes=4), score=ClassBalanced(), keep=0.5, seed=3)
        for _ in range(3):
            if reads:
                sift.read(batch())
            sift.choose(batch())
        rows.append(sift.last.indices.tolist())
    assert rows[0] == rows[1]
    resumed = Sift(OneLayer(classes=4), score=ClassBalanced(), keep=0.5, seed=4)
    resumed.load_state_dict(sift.state_dict())
    sift.choose(batch())
    resumed.choose(batch())
    assert torch.equal(sift.last.indices, resumed.last.indices)


def test_rows_without_a_class_are_refused():
    sift = Sift(OneLayer(classes=4), score=ClassBalanced())
    with pytest.raises(ValueError, match=r"'labels' is torch.int64 \(8, 2\), but .* needs one class a row, \(8,\)"):
        sift.choose({"x": torch.randn(8, 5), "labels": torch.zeros(8, 2, dtype=torch.int64)})
