"""The script that test_distributed.py launches in two gloo processes: gradients, validation and a short training."""

import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.fsdp import fully_shard

from ndm.data import Dataset, load_dataset
from ndm.data.settings import DataConfig
from ndm.experiment import Config, ModelConfig, make_model
from ndm.support.processes import leave
from ndm.training import Trainer, TrainingConfig
from ndm.training.optimization import make_optimizer
from ndm.training.state import get_weights

SMALL = Config(
    seed=3,
    model=ModelConfig(width=16, depth=1, dropout=0.0, transform_width=8, gamma_min=-4.0),
    training=TrainingConfig(
        steps=4, batch_size=24, warmup=1, clip=1e9, evaluate_every=2, checkpoint_every=2, eta_range=2.0
    ),
)
CASES = {
    f"{transform}-{parts}": replace(
        SMALL,
        model=replace(SMALL.model, transform=transform, schedule="learned"),
        training=replace(SMALL.training, accumulate=parts),
    )
    for transform, parts in (("time_basis", 1), ("network", 3))
}
TEXT = ModelConfig(
    transform="embedding", parameterization="symbols", network="transformer", tied_to="noise", dim=2, width=16, depth=1,
    dropout=0.0, gamma_min=-4.0, schedule="learned",
)  # fmt: skip
CASES["text-1"] = replace(SMALL, data=DataConfig("text", path="none", size=12), model=TEXT)
CASES["text-entropy"] = replace(CASES["text-1"], training=replace(SMALL.training, weighting="cross_entropy"))
CAN_SHARD = hasattr(torch.cpu.Stream, "record_event")
"""Whether this torch shards on CPUs: 2.6 does so only on accelerators."""


class Sharded(Trainer):
    """A trainer that applies FSDP itself, because a launcher offers it only on accelerators."""

    def prepare(self, loss):
        fully_shard(loss)
        optimizer = make_optimizer(loss.model, self.settings)
        optimizer.optimizer = optimizer  # as accelerate's wrapper has it
        return loss, optimizer


def rows_of(config):
    """Digits, or windows of a text whose characters depend on each other."""
    if config.data.name == "text":
        codes = torch.arange(250).mul(7).remainder(11).div(3, rounding_mode="floor")
        return Dataset(
            "text",
            codes.unfold(0, 12, 1)[:200],
            codes[:60].view(5, 12),
            codes[60:84].view(2, 12),
            levels=4,
            alphabet="abcd",
        )
    dataset = load_dataset("digits")
    return replace(dataset, train=dataset.train[:200], validation=dataset.validation[:50])


def results(config, folder, kind=Trainer):
    """The gradients of the first step; weights, average and validation after four; the average of a resumed run."""
    dataset = rows_of(config)
    torch.manual_seed(0)
    model = make_model(config, dataset)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)  # nothing that starts at zero stays there
    records = []
    trainer = kind(model, dataset, config.training, config.seed, log=records.append, folder=folder)
    trainer.gradient()
    whole = lambda p: p.full_tensor() if hasattr(p, "full_tensor") else p  # noqa: E731
    out = {f"gradient/{k}": whole(p.grad).clone() for k, p in trainer.module.model.named_parameters()}
    trainer.module.times.observed = None
    average = trainer.run().state_dict()
    if dist.is_initialized():
        checksums = [None, None]
        dist.all_gather_object(checksums, [value.sum().item() for value in average.values()])
        assert checksums[0] == checksums[1]  # every process has the average
    out |= {f"average/{k}": v for k, v in average.items()}
    out |= {f"weights/{k}": v for k, v in get_weights(trainer.module.model).items()}
    out |= {f"times/{k}": v for k, v in trainer.module.times.state_dict().items()}
    again = kind(make_model(config, dataset), dataset, config.training, config.seed, folder=folder)
    again.load(again.checkpoints.load(2))
    out |= {f"resumed/{k}": v for k, v in again.run().state_dict().items()}
    values = [record["validation_bpd"] for record in records if "validation_bpd" in record]
    return {k: v.detach().cpu().clone() for k, v in out.items()} | {"validation": torch.tensor(values)}


def check_one_learning_rate() -> None:
    """With a limit of time the learning rate depends on the clock, and the clock of one process runs three times as
    fast: the weights must stay the same."""
    from ndm.training import loop

    config = replace(SMALL, training=replace(SMALL.training, steps=10, max_seconds=60.0, evaluate_every=0))
    dataset, clock = rows_of(config), iter(range(1000))
    torch.manual_seed(0)
    trainer = Trainer(make_model(config, dataset), dataset, config.training, config.seed)
    loop.time = SimpleNamespace(perf_counter=lambda: next(clock) * (1 + 2 * dist.get_rank()))
    trainer.run()
    loop.time = time
    weights = [p.detach().sum().item() for p in trainer.module.model.parameters()]
    dist.all_gather_object(every := [None, None], weights)
    assert every[0] == every[1]
    assert trainer.seconds == 2 * 10


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    for name, config in CASES.items():
        for kind in (Trainer, Sharded) if CAN_SHARD else (Trainer,):
            found = results(config, folder / f"{kind.__name__}-{name}", kind)
            if dist.get_rank() == 0:
                assert dist.get_world_size() == 2
                save_file(found, folder / f"{kind.__name__}-{name}.safetensors")
            dist.barrier()
    check_one_learning_rate()
    leave(failed=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
