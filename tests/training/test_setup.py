"""What accelerate does to a run beyond what it is asked for, and what is undone."""

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed import HashStore
from torch.nn.parallel import DistributedDataParallel

from flops_fit.errors import FlopsFitError
from flops_fit.experiment.options import TrainOptions
from flops_fit.training.checks import check_accelerator
from flops_fit.training.setup import new_accelerator

MATMUL = torch.backends.cuda.matmul


@pytest.fixture
def restored():
    yield
    MATMUL.allow_tf32 = False
    MATMUL.fp32_precision = "none"


@pytest.mark.parametrize("before", ["none", "ieee", "tf32"])
def test_compiling_in_fp32_leaves_products_in_fp32(restored, before):
    """On a GPU accelerate switches TF32 on together with inductor; a resource would change results."""

    def make(**asked):
        MATMUL.allow_tf32 = True  # as its AcceleratorState does
        return asked

    MATMUL.fp32_precision = before
    asked = new_accelerator(make, TrainOptions(1, 1, 0.1, compile=True), None)
    assert asked["dynamo_backend"] == "inductor"
    assert MATMUL.fp32_precision == before
    assert MATMUL.allow_tf32 is (before == "tf32")


def test_a_job_that_sees_fewer_gpus_than_it_was_given_is_told_so(monkeypatch):
    """NCCL would say that two ranks use one device, which reads as if a process had been lost."""

    class World:
        num_processes, device, native_amp = 2, torch.device("cuda", 0), True
        distributed_type = None

    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    options = TrainOptions(1, 2, 0.1, processes=2, gpus=2)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    with pytest.raises(FlopsFitError, match="2 given, but the job sees 1; check the driver"):
        check_accelerator(World(), options)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    check_accelerator(World(), options)


def test_a_compiled_model_still_accumulates_without_exchange_after_it_was_unwrapped():
    torch.distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        model, accelerator = nn.Linear(2, 1), Accelerator(cpu=True)
        compiled = torch.compile(DistributedDataParallel(model))
        assert accelerator.unwrap_model(compiled, keep_torch_compile=False) is model
        with compiled.no_sync():  # what accelerator.no_sync looks for
            assert not compiled._orig_mod.require_backward_grad_sync
    finally:
        torch.distributed.destroy_process_group()
        Accelerator().free_memory()
