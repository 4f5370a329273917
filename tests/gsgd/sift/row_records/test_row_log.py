"""The log of rows: held against a list kept by hand, cut where a run goes on, bounded, whole."""

import copy
import math
import pickle

import pytest

torch = pytest.importorskip("torch")
pq = pytest.importorskip("pyarrow.parquet")
from small_training import OneLayer, losses_by_hand  # noqa: E402

from gsgd import host  # noqa: E402
from gsgd.sift import Selection, Sift  # noqa: E402
from gsgd.sift.row_records import row_log  # noqa: E402
from gsgd.sift.row_records.row_log import RowLog, remove_log  # noqa: E402

ROWS, GROSS = 40, 8


def batches(number, begin=0):
    for step in range(begin, begin + number):
        generator = torch.Generator().manual_seed(step)
        ids = torch.randperm(ROWS, generator=generator)[:GROSS]
        yield {"x": torch.randn(GROSS, 5, generator=generator), "labels": ids % 3, "id": ids}


def logged(folder):
    """All rows of the log, in the order of the files' names."""
    found = []
    for path in sorted(folder.glob("*.parquet")):
        found += pq.read_table(path).to_pylist()
    return found


def by_hand(sift, batch):
    """What the log must say of the step just trained: from public attributes and the model alone."""
    kept = set(sift.last.indices.tolist())
    each = losses_by_hand(sift.model.layer(batch["x"]), batch["labels"])
    return [
        {
            "step": sift.last.step,
            "id": int(name),
            "kept": row in kept,
            "loss": pytest.approx(each[row], rel=1e-5, abs=1e-6) if row in kept else None,
            "weight": 1.0 if row in kept else 0.0,
        }
        for row, name in enumerate(batch["id"])
    ]


def in_order(rows):
    return sorted(rows, key=lambda row: (row["step"], row["id"]))


@pytest.mark.parametrize("options", [{"score": "random"}, {"score": "last-seen", "data_rows": ROWS}])
def test_every_row_that_was_drawn_is_logged_once(tmp_path, options):
    sift = Sift(OneLayer(), log_rows=tmp_path / "rows", start_step=2, **options)
    expected = []
    for step, batch in enumerate(batches(6)):
        sift(**batch)
        expected += by_hand(sift, batch)
        assert sift.last.kept_flags.tolist() == [row["kept"] for row in expected[-GROSS:]]
        if step == 3:
            sift.write_rows()
            assert in_order(logged(tmp_path / "rows")) == in_order(expected)
    assert len(logged(tmp_path / "rows")) == 4 * GROSS, "what came since waits for the next log"
    sift.model.eval()
    sift(**batch)
    assert in_order(logged(tmp_path / "rows")) == in_order(expected)


def test_scores_of_an_exit_share_their_pass_with_a_log_too(build, make_batch, tmp_path):
    def run(folder):
        model = build("bert-mlm", dropout=0.1).train()
        torch.manual_seed(3)
        named = {} if folder is None else {"log_rows": folder}
        sift = Sift(model, score="loss", exit_layer=1, reuse=True, check=False, **named)
        sift(**make_batch("bert-mlm", rows=8, seed=1), id=torch.arange(8)).loss.backward()
        return sift, [weight.grad for weight in model.parameters()]

    (plain, without), (sift, with_log) = run(None), run(tmp_path / "rows")
    assert plain.totals.reused_operations == sift.totals.reused_operations > 0
    assert all(torch.equal(*pair) for pair in zip(without, with_log, strict=True))
    assert plain.last.losses is None
    sift.write_rows()
    kept = [row for row in logged(tmp_path / "rows") if row["kept"]]
    assert [row["id"] for row in kept] == sift.last.indices.tolist()
    assert [row["loss"] for row in kept] == sift.last.losses.tolist()


def test_weights_that_a_loop_tells_are_logged(tmp_path):
    sift = Sift(OneLayer(), score="random", log_rows=tmp_path)
    rows = sift.choose(next(batches(1)))
    sift.note(sift.model(**rows), rows, weights=torch.tensor([2.0, 0.5, 1.0, 0.5]))
    assert sift.last.weights.tolist() == [2.0, 0.5, 1.0, 0.5]
    sift.write_rows()
    kept = {row["id"]: row["weight"] for row in logged(tmp_path) if row["kept"]}
    assert kept == dict(zip(sift.last.ids.tolist(), [2.0, 0.5, 1.0, 0.5], strict=True))


@pytest.mark.parametrize("how", ["state", "pickle"])
def test_a_run_that_goes_on_has_no_row_twice(tmp_path, how, monkeypatch):
    monkeypatch.setattr(row_log, "PART_ROWS", 20)

    def run(folder, stops):
        sift, step, saved = Sift(OneLayer(), score="random", log_rows=folder), 0, None
        for stop, goes_on_at in stops:
            for batch in batches(stop - step, step):
                sift(**batch)
                step += 1
                if step == goes_on_at:
                    saved = copy.deepcopy(sift.state_dict()) if how == "state" else pickle.dumps(sift)
            sift.write_rows()  # what comes after the checkpoint is on the disk when the run is killed
            if how == "state":
                sift = Sift(OneLayer(), score="random", log_rows=folder)
                sift.load_state_dict(saved)
            else:
                sift = pickle.loads(saved)
            step = goes_on_at
        for batch in batches(20 - step, step):
            sift(**batch)
        sift.write_rows()
        return logged(folder)

    whole = run(tmp_path / "whole", [])
    assert len(whole) == 20 * GROSS
    assert run(tmp_path / "once", [(9, 5)]) == whole
    assert run(tmp_path / "twice", [(9, 5), (17, 17), (19, 18)]) == whole


def test_the_oldest_parts_go(tmp_path, monkeypatch):
    monkeypatch.setattr(row_log, "PART_ROWS", 16)
    monkeypatch.setattr(row_log, "MOST_PARTS", 3)
    sift = Sift(OneLayer(), score="random", log_rows=tmp_path)
    for step, batch in enumerate(batches(13)):
        sift(**batch)
        if step % 5 == 0:
            sift.write_rows()
    sift.write_rows()
    names = [f"rank-0-part-00000{number}.parquet" for number in (4, 5, 6)]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert {row["step"] for row in logged(tmp_path)} == {8, 9, 10, 11, 12}


def test_waiting_rows_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(row_log, "MOST_WAITING", 3 * GROSS)
    sift = Sift(OneLayer(), score="random", log_rows=tmp_path)
    for number, batch in enumerate(batches(5), start=1):
        sift(**batch)
        assert len(logged(tmp_path)) == (4 * GROSS if number >= 4 else 0)


def test_rows_of_other_ranks_are_no_flags_of_this_one():
    """Of 3 ranks of 4 rows the middle one has the rows 4 to 7."""
    last = Selection(0, True, torch.tensor([0, 5, 7, 11]), None, 4, 2, first_row=4)
    assert last.kept_flags.tolist() == [False, True, False, True]


def test_a_step_waits_for_no_device(tmp_path, monkeypatch):
    """On the device "meta", where a look at a value is an error."""
    log = RowLog(tmp_path, 0)
    ids, losses = torch.arange(8, device="meta"), torch.zeros(4, device="meta")
    last = Selection(0, True, torch.arange(4, device="meta"), None, 8, 4)
    log.add(0, ids, last.kept_flags, ids[:4], losses)
    assert not host.holds(ids)
    assert list(tmp_path.iterdir()) == []


def test_another_runs_log_and_what_is_no_folder_are_in_the_way(tmp_path):
    sift = Sift(OneLayer(), score="random", log_rows=tmp_path / "rows")
    (batch,) = batches(1)
    sift(**batch)
    sift.write_rows()
    with pytest.raises(ValueError, match=r"has the rows of another run .*name another folder, or remove it"):
        Sift(OneLayer(), score="random", log_rows=tmp_path / "rows")(**batch)
    (tmp_path / "rows" / "mine.txt").write_text("kept")
    remove_log(tmp_path / "rows")
    assert [path.name for path in (tmp_path / "rows").iterdir()] == ["mine.txt"]
    for path in (tmp_path / "rows" / "mine.txt", tmp_path / "rows" / "mine.txt" / "deeper"):
        with pytest.raises(ValueError, match=r"mine\.txt is no folder; name another one"):
            Sift(OneLayer(), score="random", log_rows=path)
    with pytest.raises(ValueError, match="log_rows = 3 must be the path of a folder"):
        Sift(OneLayer(), log_rows=3)


def test_a_damaged_part_is_named(tmp_path):
    (tmp_path / "rank-0-part-000000.parquet").write_bytes(b"nothing of parquet")
    sift = Sift(OneLayer(), score="random", log_rows=tmp_path)
    sift.load_state_dict(Sift(OneLayer(), score="random").state_dict())
    with pytest.raises(ValueError, match=r"rank-0-part-000000\.parquet cannot be read.*remove it to log anew"):
        sift(**next(batches(1)))


def test_batches_without_ids_and_with_too_few_are_refused(tmp_path):
    (batch,) = batches(1)
    sift = Sift(OneLayer(), score="random", log_rows=tmp_path)
    with pytest.raises(ValueError, match=r"log_rows needs the ids of a batch's rows under 'id'.*WithIds"):
        sift(x=batch["x"], labels=batch["labels"])
    with pytest.raises(ValueError, match=r"the batch has 8 rows, but 3 ids under 'id'"):
        sift(**{**batch, "id": batch["id"][:3]})


def test_losses_of_rows_that_were_not_trained_on_are_no_numbers(tmp_path):
    log = RowLog(tmp_path, 0)
    log.add(0, torch.arange(2), torch.tensor([True, False]), torch.tensor([0]), torch.tensor([0.5]))
    log.write()
    rows = row_log.read_part(tmp_path / "rank-0-part-000000.parquet")
    assert rows["loss"].tolist() == pytest.approx([0.5, math.nan], nan_ok=True)
