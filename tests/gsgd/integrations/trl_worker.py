"""One rank of test_trl.py's runs in two processes, or a run in one: trains and writes the weights and logs.

python trl_worker.py OUT ROWS_OF_A_RANK KEEP       (under torchrun: rank 0 writes OUT)
"""

import pathlib
import sys

import torch
from test_trl import LOGGED, llama, made_tokenizer, samples, settings
from transformers.utils import logging

from gsgd.integrations.trl import SiftSFTTrainer
from gsgd.sift.huggingface.trainer import SiftArguments

out, rows, keep = pathlib.Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
logging.set_verbosity_error()
trainer = SiftSFTTrainer(
    model=llama(),
    args=settings(out.with_suffix(""), rows=rows, pad_to_multiple_of=32),  # batches of one shape on all ranks
    train_dataset=samples(),
    processing_class=made_tokenizer(),
    sift=SiftArguments(exit_layer=1, keep=keep, scope="global"),
)
trainer.train()
if trainer.args.process_index == 0:
    weights = torch.cat([value.detach().flatten() for value in trainer.model.parameters()])
    logs = [[entry.get(name) for name in (*LOGGED, "kept_samples")] for entry in trainer.state.log_history[:-1]]
    torch.save({"weights": weights, "logs": torch.tensor(logs)}, out)
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
