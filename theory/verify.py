"""Runs checks: seeds, the split of the error probability, processes, and what is written of the outcome."""

from __future__ import annotations

import multiprocessing
import time
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from typing import Any

from theory.checks import load
from theory.statements import place
from theory.verdict import Check, Route, Status, Verdict


@dataclass(frozen=True)
class Outcome:
    """A check, what it found, and how long it took."""

    check: Check
    verdict: Verdict
    seconds: float

    @property
    def as_expected(self) -> bool:
        return self.verdict.status is self.check.expected

    def record(self) -> dict[str, Any]:
        """The outcome as it stands in the JSON file."""
        return {
            "name": self.check.name,
            "statement": self.check.statement,
            "claim": self.check.claim,
            "route": str(self.check.route),
            "scope": str(self.check.scope),
            "expected": str(self.check.expected),
            **{key: str(value) if key == "status" else value for key, value in asdict(self.verdict).items()},
            "seconds": round(self.seconds, 4),
        }


def all_checks() -> list[Check]:
    """Every registered check, in the order of the paper; what holds first, then what is false, then the controls."""
    rank = list(Status)
    return sorted(load().values(), key=lambda item: (place(item.statement), rank.index(item.expected)))


def alpha_per_check(alpha: float) -> float:
    """The share of the run's error probability that each Monte Carlo check gets (union bound over all of them).

    All registered ones are counted, also those that a run leaves out, so that a check's outcome does not depend on
    its company.
    """
    return alpha / sum(item.route is Route.MONTE_CARLO for item in load().values())


def run_checks(
    checks: Iterable[Check], *, seed: int, alpha: float, jobs: int, done: Callable[[Outcome], None] = lambda _: None
) -> list[Outcome]:
    """Run `checks` and return their outcomes in the given order; `done` is called as each one ends.

    Seeds come from names, so outcomes depend on neither `jobs` nor the order.
    """
    checks = list(checks)
    share = alpha_per_check(alpha)
    if jobs == 1 or len(checks) < 2:
        outcomes = {}
        for item in checks:
            outcomes[item.name] = _run(item.name, seed, share)
            done(outcomes[item.name])
        return [outcomes[item.name] for item in checks]
    outcomes = {}
    # Fresh processes: forking one that has started threads may hang.
    with ProcessPoolExecutor(min(jobs, len(checks)), mp_context=multiprocessing.get_context("spawn")) as pool:
        # Simulations take longest; a long one that starts last would leave the other processors idle.
        slowest_first = sorted(checks, key=lambda item: item.route is not Route.MONTE_CARLO)
        futures = [pool.submit(_run_by_name, item.name, seed, share) for item in slowest_first]
        try:
            for future in as_completed(futures):
                name, verdict, seconds = future.result()
                outcomes[name] = Outcome(load()[name], verdict, seconds)
                done(outcomes[name])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [outcomes[item.name] for item in checks]


def _run(name: str, seed: int, alpha: float) -> Outcome:
    item = load()[name]
    start = time.perf_counter()
    try:
        verdict = item.run(seed=seed, alpha=alpha)
    except Exception as failure:
        # A check that cannot be carried out says nothing of its statement; the others must still run.
        where = traceback.extract_tb(failure.__traceback__)[-1]
        text = f"the check failed: {type(failure).__name__}: {failure} ({where.name}, line {where.lineno})"
        verdict = Verdict(status=Status.INCONCLUSIVE, witness=text)
    return Outcome(item, verdict, time.perf_counter() - start)


def _run_by_name(name: str, seed: int, alpha: float) -> tuple[str, Verdict, float]:
    outcome = _run(name, seed, alpha)
    return name, outcome.verdict, outcome.seconds
