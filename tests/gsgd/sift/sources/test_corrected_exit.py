"""The corrected exit: the engine against a dictionary of errors kept by hand."""

import functools

import pytest

torch = pytest.importorskip("torch")
import small_training  # noqa: E402
from small_training import CLASSES, TwoExits, assert_resumes, hardest, losses_by_hand, same, train_step  # noqa: E402

from gsgd.sift import CorrectedExit, Sift  # noqa: E402

ROWS, GROSS, KEPT = 40, 8, 4


batches = functools.partial(small_training.batches, rows=ROWS, ids=True)


def begin(**options):
    net = TwoExits()
    sift = Sift(net, score=CorrectedExit(), exit_layer=1, **{"data_rows": ROWS, "keep": 0.5, **options})
    return net, sift, torch.optim.SGD(net.parameters(), lr=0.3)


@pytest.mark.parametrize("reuse", [False, True])
def test_rows_are_chosen_by_a_dictionary_of_errors(reuse):
    """Whether or not training takes the exit's pass over; errors are noted where the exit has scored only."""
    net, sift, optimizer = begin(reuse=reuse, start_step=3)
    errors: dict[int, float] = {}
    corrections = set()
    for number, batch in enumerate(batches(40)):
        names, kept = batch["id"].tolist(), list(range(GROSS))
        exact, early = (losses_by_hand(net.early_logits(layer, batch["x"]), batch["labels"]) for layer in (2, 1))
        mean = sum(errors.values()) / len(errors) if errors else 0.0
        wanted = [loss + errors.get(name, mean) for loss, name in zip(early, names, strict=True)]
        if number >= 3:
            kept = hardest(wanted, KEPT)
            corrections.add(kept != hardest(early, KEPT))
        train_step(sift, batch, optimizer)
        assert sift.last.indices.tolist() == kept
        if number < 3:
            continue
        assert sift.last.scores.tolist() == pytest.approx(wanted, rel=1e-4, abs=1e-5)
        errors |= {names[row]: exact[row] - early[row] for row in kept}
    assert corrections == {False, True}
    assert (sift.totals.reused_operations > 0) is reuse
    seen = sift.source.errors
    assert (seen.table.seen_at >= 0).nonzero().flatten().tolist() == sorted(errors)
    assert float(seen.totals[1]) == len(errors)
    assert float(seen.totals[0]) == pytest.approx(sum(errors.values()), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("at", [0, 3, 7])
def test_a_resumed_run_is_the_run_bit_for_bit(at):
    resumed, whole = assert_resumes(lambda: begin(random_share=0.5), lambda: batches(12), at)
    assert same(resumed.source.state_dict()["errors"], whole.source.state_dict()["errors"])


def test_readings_leave_the_errors_alone():
    """Between choice and training, too, and with meters at every step."""
    rows = []
    for every in (0, 1):
        _, sift, optimizer = begin(meter_every=every)
        for batch in batches(10):
            if every:
                sift.read(batch)
            train_step(sift, batch, optimizer)
        rows.append((sift.last.indices.tolist(), sift.last.scores.tolist()))
        assert len(sift.readings) == 10 * every
    assert rows[0] == rows[1]


def test_micro_batches_that_were_chosen_together_are_noted_in_any_order():
    """The model is the same for both, so that a row's error is, too."""
    tables = []
    for order in (1, -1):
        net, sift, _ = begin(accumulation_steps=2, reuse=False)
        chosen = [sift.choose(batch) for batch in batches(2)]
        for rows in chosen[::order]:
            sift.note(net(**rows), rows)
        tables.append(sift.source.errors.table.losses)
        assert int((sift.source.errors.table.seen_at >= 0).sum()) > KEPT
    assert torch.equal(*tables)


def test_losses_that_are_not_finite_are_no_errors():
    _, sift, _ = begin(on_bad_scores="last")
    (batch,) = batches(1)
    batch["x"][3] = float("nan")
    sift(**batch)
    sift.note({"loss": torch.tensor(0.0), "logits": torch.zeros(KEPT, CLASSES)}, {})  # rows that nobody chose
    assert bool(torch.isfinite(sift.source.errors.totals).all())
    assert int(sift.source.errors.totals[1]) == KEPT


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data_rows": None}, "score = CorrectedExit needs data_rows"),
        ({"exit_layer": "auto"}, "score = CorrectedExit takes none as it is"),
        ({"exit_layer": 3}, r"exit_layer = 3 must be a whole number in 1\.\.2"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Sift(TwoExits(), score=CorrectedExit(), **{"data_rows": ROWS, **options})


def test_batches_without_ids_and_states_of_other_data_are_refused():
    _, sift, _ = begin()
    (batch,) = batches(1)
    with pytest.raises(ValueError, match="score = CorrectedExit needs the ids of a batch's rows under 'id'"):
        sift(x=batch["x"], labels=batch["labels"])
    with pytest.raises(ValueError, match=r"id \d+ must lie in 0\.\.39"):
        sift(**{**batch, "id": batch["id"] + 40 - batch["id"].min()})
    _, other, _ = begin(data_rows=50)
    other(**batch)
    with pytest.raises(ValueError, match="losses of 50 rows, but data_rows = 40"):
        sift.load_state_dict(other.state_dict())
