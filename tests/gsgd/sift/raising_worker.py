"""torchrun raising_worker.py: a DDP loop in which rank 1 meets a NaN score at step 1, for test_distributed.py.

It does without transformers, which takes longer to import than all the rest.
"""

import datetime

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from gsgd.sift import Sift

ROWS, FEATURES, CLASSES = 8, 6, 5


class Net(nn.Module):
    """Implements `gsgd.sift.EarlyExit`: both layers are read by the same head."""

    exit_layers = 2

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(FEATURES, FEATURES) for _ in range(2))
        self.head = nn.Linear(FEATURES, CLASSES)

    def early_logits(self, exit_layer, x):
        for layer in self.layers[:exit_layer]:
            x = torch.tanh(layer(x))
        return self.head(x)

    def forward(self, x, labels):
        return cross_entropy(self.early_logits(2, x), labels)


def nan_where_class_3(logits, labels):
    return torch.where(labels == 3, torch.nan, cross_entropy(logits, labels, reduction="none"))


def batch_of(rank, bad):
    """Rows of which on rank 1 those in `bad` score NaN, on rank 0 none."""
    draw = torch.Generator().manual_seed(rank)
    labels = torch.randint(3, (ROWS,), generator=draw)
    if rank == 1:
        labels[bad] = 3
    return {"x": torch.randn(ROWS, FEATURES, generator=draw), "labels": labels}


if __name__ == "__main__":
    torch.set_num_threads(1)
    # Rank 1 raises at step 1 and ends; rank 0 waits for its gradients.
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
    rank = dist.get_rank()
    torch.manual_seed(0)
    sift = Sift(DistributedDataParallel(Net()), score=nan_where_class_3)
    for bad in ([], [1], [], []):
        sift(**batch_of(rank, bad)).backward()
        print(f"rank {rank} trained", flush=True)
