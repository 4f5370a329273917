"""Small classifiers, batches drawn from a small data set, a step of training, and what it means to resume a run.

Everything is seeded; no expected value comes from `gsgd`. Tests import this module by name.
"""

import io

import torch
import torch.nn.functional as F

FEATURES, CLASSES, WIDTH = 5, 3, 6


class Classifier(torch.nn.Module):
    """Returns a loss and the `logits(x)` of a subclass."""

    def forward(self, x, labels=None):
        logits = self.logits(x)
        return {"loss": None if labels is None else F.cross_entropy(logits, labels), "logits": logits}


class OneLayer(Classifier):
    """It has no exits."""

    def __init__(self, seed=0, classes=CLASSES):
        super().__init__()
        torch.manual_seed(seed)
        self.layer = torch.nn.Linear(FEATURES, classes)

    def logits(self, x):
        return self.layer(x)


class OneExit(OneLayer):
    """Implements `gsgd.sift.EarlyExit`, with one exit."""

    exit_layers = 1

    def early_logits(self, exit_layer, x):
        return self.layer(x)


class TwoExits(Classifier):
    """Implements `gsgd.sift.EarlyExit`: exit 1 reads the first layer through a head of its own."""

    exit_layers = 2

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.early = torch.nn.Linear(FEATURES, WIDTH), torch.nn.Linear(WIDTH, CLASSES)
        self.last = torch.nn.Linear(WIDTH, CLASSES)

    def early_logits(self, exit_layer, x):
        hidden = torch.tanh(self.first(x))
        return self.early(hidden) if exit_layer == 1 else self.last(hidden) + self.early(hidden)

    def logits(self, x):
        return self.early_logits(2, x)


def batches(number, *, rows=40, gross=8, dtype=torch.float32, ids=False):
    """So many batches of `gross` rows, each drawn without replacement from the same `rows` rows."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, FEATURES, generator=generator, dtype=dtype)
    labels = torch.randint(CLASSES, (rows,), generator=generator)
    for _ in range(number):
        drawn = torch.randperm(rows, generator=generator)[:gross]
        yield {"x": x[drawn], "labels": labels[drawn]} | ({"id": drawn} if ids else {})


def losses_by_hand(logits, labels):
    """Of each row by itself, in double precision."""
    return [float(torch.logsumexp(row, 0) - row[y]) for row, y in zip(logits.detach().double(), labels, strict=True)]


def hardest(scores, kept):
    """The rows of the largest scores, of equals the first, in ascending order."""
    return sorted(sorted(range(len(scores)), key=lambda row: -scores[row])[:kept])


def train_step(sift, batch, optimizer):
    loss = sift(**batch)["loss"]
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def same(found, wanted):
    """Whether nested states are equal, tensors bit for bit."""
    if torch.is_tensor(wanted):
        return torch.equal(found, wanted)
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(same(found[key], value) for key, value in wanted.items())
    if isinstance(wanted, list | tuple):
        return len(found) == len(wanted) and all(map(same, found, wanted))
    return found == wanted


def assert_resumes(begin, make_batches, at):
    """A run that goes on from its state before step `at` ends as the whole run does, bit for bit.

    The state goes through a file that holds tensors and plain values only.

    Args:
        begin: () -> (model, engine, optimizer without a state), each time the same.
        make_batches: () -> all batches of the run, each time the same.

    Returns:
        The engine of the resumed run and that of the whole one, for what is to be compared besides.
    """
    net, whole, optimizer = begin()
    for number, batch in enumerate(make_batches()):
        if number == at:
            file = io.BytesIO()
            torch.save({"net": net.state_dict(), "sift": whole.state_dict()}, file)
            file.seek(0)
        train_step(whole, batch, optimizer)
    state = torch.load(file, weights_only=True)
    other, resumed, optimizer = begin()
    other.load_state_dict(state["net"])
    resumed.load_state_dict(state["sift"])
    assert same(resumed.state_dict(), state["sift"])
    for batch in list(make_batches())[at:]:
        train_step(resumed, batch, optimizer)
    assert same(resumed.last.scores, whole.last.scores)
    assert same(resumed.last.indices, whole.last.indices)
    assert same(other.state_dict(), net.state_dict())
    assert same(resumed.state_dict().get("source"), whole.state_dict().get("source"))
    return resumed, whole
