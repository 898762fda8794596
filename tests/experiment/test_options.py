"""The trainer's options: precision, clipping, recomputation, compilation, determinism, trackers."""

import json
import math

import numpy as np
import pytest
import recipes
import torch
from accelerate import Accelerator
from torch import nn
from torch._dynamo.utils import counters

from flops_fit import trainer
from flops_fit.data import as_data, bytes_per_token, split_by_hash
from flops_fit.errors import FlopsFitError
from flops_fit.examples.gpt import GPT, optimizer
from flops_fit.examples.loss import cross_entropy
from flops_fit.experiment.options import Resources, TrainOptions
from flops_fit.experiment.spec import Spec, options_of
from flops_fit.optimizer import OptimizerList, adamw
from flops_fit.plan import devices
from flops_fit.plan.devices import device_name, matmul_format, measured_peak, peak_flops
from flops_fit.plan.peaks import PEAK_TFLOPS, known_peak
from flops_fit.plan.schedule import multiplier
from flops_fit.trainer import train
from flops_fit.training.batches import GlobalBatches
from flops_fit.training.record import speed

SEQ_LEN, BATCH, STEPS = 16, 4, 12
CPU = torch.device("cpu")


class Text(torch.utils.data.Dataset):
    """Windows of a repeating text of 32 letters, each a byte and a half long."""

    bytes_per_token = 1.5

    def __len__(self):
        return 100

    def __getitem__(self, i):
        window = (torch.arange(SEQ_LEN + 1) * (1 + i % 3) + i) % 32
        return window[:-1], window[1:]


def run(*, build_optimizer=optimizer, loss_fn=cross_entropy, folder=None, model=None, **options):
    """The outcome of a dozen steps of a tiny GPT."""
    return train(
        "tiny",
        model or (lambda: GPT(16, vocab_size=32, seq_len=SEQ_LEN)),
        as_data(Text()),
        loss_fn,
        build_optimizer,
        TrainOptions(
            **{
                "tokens": SEQ_LEN * BATCH * STEPS,
                "batch_items": BATCH,
                "learning_rate": 0.02,
                "evaluation_batch_items": BATCH,
                "progress": False,
                **options,
            }
        ),
        folder,
    )


def curve(outcome: dict) -> list[float]:
    return outcome["loss_curve"]["loss"]


@pytest.fixture(scope="module")
def plain():
    return run()


class TestPrecision:
    def test_bf16_runs_the_model_in_bf16_and_the_loss_in_fp32(self, plain):
        inside, outside = set(), set()

        def watched():
            model = GPT(16, vocab_size=32, seq_len=SEQ_LEN)
            model.blocks[0].mlp.up.register_forward_hook(lambda m, i, o: inside.add(o.dtype))
            return model

        def loss_fn(outputs, targets):
            outside.add(outputs.dtype)
            return cross_entropy(outputs, targets)

        outcome = run(precision="bf16", model=watched, loss_fn=loss_fn)
        assert (inside, outside) == ({torch.bfloat16}, {torch.float32})
        assert curve(outcome) != curve(plain)
        np.testing.assert_allclose(curve(outcome), curve(plain), rtol=0.02)

    def test_each_run_of_a_process_has_its_own_precision(self, plain):
        # accelerate keeps the first one for the whole process
        assert curve(run(precision="bf16")) != curve(run()) == curve(plain)

    def test_fp16_is_refused_before_training_where_the_device_has_none(self):
        def never():
            raise AssertionError("a model was built")

        with pytest.raises(FlopsFitError, match="precision: fp16 is not available on cpu; allowed"):
            run(precision="fp16", model=never)
        assert run()["status"] == "completed"

    @pytest.mark.parametrize("overflows", [False, True])
    def test_a_scaler_steps_or_skips_all_members_of_an_optimizer_list(self, overflows):
        weights = [nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))]
        both = OptimizerList(
            [
                torch.optim.Muon(weights[:1], lr=0.1),
                torch.optim.AdamW(weights[1:], lr=0.1, fused=True),
            ]
        )
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        loss = sum(w.sum() for w in weights) * (math.inf if overflows else 1.0)
        scaler.scale(loss).backward()
        scaler.step(both)
        scaler.update()
        unmoved = [bool((w == 1).all()) for w in weights]
        assert unmoved == [overflows, overflows]
        if not overflows:  # AdamW's first step is lr, so the scale is gone from it
            torch.testing.assert_close(weights[1].data, torch.full((2,), 0.899), atol=1e-5, rtol=0)

    @pytest.mark.parametrize("set_by", ["the backend", "torch"])
    def test_products_that_a_plug_in_allows_in_tf32_are_called_so(self, set_by):
        matmul = torch.backends.cuda.matmul
        assert matmul_format("no") == "fp32"
        assert matmul_format("bf16") == "bf16"
        if set_by == "torch":
            torch.set_float32_matmul_precision("high")
        else:
            matmul.fp32_precision = "tf32"
        try:
            assert matmul_format("no") == "tf32"
            assert run()["status"] == "completed"
        finally:
            matmul.fp32_precision = "none"
            torch.set_float32_matmul_precision("highest")


class TestClipping:
    def by_hand(self, limit: float, sgd_rate: float = 0.5) -> list[float]:
        train_part, _ = split_by_hash(Text())
        torch.manual_seed(0)
        model = GPT(16, vocab_size=32, seq_len=SEQ_LEN)
        order = GlobalBatches(len(train_part), BATCH, BATCH * STEPS, seed=0)
        losses = []
        for step in range(STEPS):
            items = [train_part[int(i)] for i in order.indices(BATCH * step, BATCH)]
            inputs, targets = (torch.stack(column) for column in zip(*items, strict=True))
            loss = cross_entropy(model(inputs), targets)
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            norm = math.sqrt(sum(g.double().square().sum().item() for g in gradients))
            rate = sgd_rate * multiplier((step + 0.5) / STEPS, TrainOptions(1, 1, 1.0).schedule)
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                    parameter -= rate * min(1.0, limit / norm) * gradient
            losses.append(loss.item())
        return losses

    def sgd(self, model, lr):
        return torch.optim.SGD(model.parameters(), lr=0.5)

    @pytest.mark.parametrize("micro_batch_items", [None, 3])
    def test_gradients_are_scaled_to_the_limit_on_their_joint_norm(self, micro_batch_items):
        clipped = curve(
            run(build_optimizer=self.sgd, clip_norm=0.05, micro_batch_items=micro_batch_items)
        )
        np.testing.assert_allclose(clipped, self.by_hand(0.05), rtol=1e-5)
        assert abs(clipped[-1] / self.by_hand(math.inf)[-1] - 1) > 1e-3  # the limit was felt

    def test_a_limit_that_is_never_reached_changes_nothing(self):
        assert curve(run(build_optimizer=self.sgd, clip_norm=1e6)) == curve(
            run(build_optimizer=self.sgd)
        )


class TestRecomputation:
    def test_activation_checkpointing_gives_the_same_bits(self, plain):
        recomputed = run(activation_checkpointing=True)
        assert curve(recomputed) == curve(plain)
        assert recomputed["final_loss"] == plain["final_loss"]

    def test_it_stores_fewer_activations(self):
        def stored(recompute: bool) -> int:
            model = GPT(16, n_layers=4, vocab_size=32, seq_len=SEQ_LEN).train()
            model.set_activation_checkpointing(recompute)
            sizes = []
            with torch.autograd.graph.saved_tensors_hooks(
                lambda t: sizes.append(t.numel()) or t, lambda t: t
            ):
                model(torch.zeros(2, SEQ_LEN, dtype=torch.int64))
            return sum(sizes)

        assert stored(True) < stored(False) / 4

    def test_a_model_without_it_is_refused(self):
        with pytest.raises(FlopsFitError, match=r"Linear has no method set_activation_checkpoint"):
            run(activation_checkpointing=True, model=lambda: nn.Linear(SEQ_LEN, SEQ_LEN))


@pytest.mark.slow
def test_a_compiled_model_trains_like_the_eager_one(plain):
    # Two sizes of batch are compiled, training and held-out: about two minutes
    compiled = run(compile=True)
    assert compiled["num_params"] == plain["num_params"]
    np.testing.assert_allclose(curve(compiled)[:4], curve(plain)[:4], rtol=1e-4)
    assert compiled["final_loss"] == pytest.approx(plain["final_loss"], rel=0.02)


@pytest.mark.seconds
def test_every_run_of_a_process_is_compiled_however_many_shapes_there_were(monkeypatch):
    # torch compiles a class for a few shapes, and leaves further models as they are in silence
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 2)
    monkeypatch.setattr(
        trainer, "Accelerator", lambda **s: Accelerator(**s | {"dynamo_backend": "eager"})
    )
    graphs = []
    for width in (16, 32, 48):
        counters["stats"].clear()
        run(model=lambda: GPT(width, vocab_size=32, seq_len=SEQ_LEN), compile=True)  # noqa: B023
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs == [graphs[0]] * 3
    assert graphs[0] >= 2  # to train, and to evaluate


class TestDeterminism:
    def test_deterministic_runs_repeat_bit_for_bit_and_refuse_other_operations(self, plain):
        seen = []

        def loss_fn(outputs, targets):
            seen.append(torch.are_deterministic_algorithms_enabled())
            return cross_entropy(outputs, targets)

        first, again = (run(deterministic=True, loss_fn=loss_fn) for _ in range(2))
        assert all(seen)
        assert curve(first) == curve(again) == curve(plain)
        assert first["final_loss"] == again["final_loss"]

        def no_deterministic_kernel(outputs, targets):
            torch.zeros(4).put_(torch.tensor([0, 0]), torch.ones(2))
            return cross_entropy(outputs, targets)

        with pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
            run(deterministic=True, loss_fn=no_deterministic_kernel)

    def test_it_ends_with_its_run(self, plain):
        run(deterministic=True)
        run()
        assert not torch.are_deterministic_algorithms_enabled()


class TestOptimiserAndTransfers:
    def test_the_default_optimiser_is_fused_where_the_device_has_it(self):
        model = nn.Linear(3, 3)
        assert adamw(model, 0.1).defaults["fused"] is True
        assert not adamw(model, 0.1, fused=False).defaults["fused"]
        assert adamw(model, 0.1, foreach=True).defaults["foreach"] is True
        assert not adamw(nn.Linear(3, 3, device="meta"), 0.1).defaults["fused"]

    @pytest.mark.skipif(torch.cuda.is_available(), reason="checks a machine without a GPU")
    def test_nothing_is_pinned_without_a_gpu(self, monkeypatch):
        pinned = []
        real = torch.utils.data.DataLoader.__init__
        monkeypatch.setattr(
            torch.utils.data.DataLoader,
            "__init__",
            lambda self, *a, **k: pinned.append(k.get("pin_memory", False)) or real(self, *a, **k),
        )
        run()
        assert len(pinned) >= 2
        assert not any(pinned)


class TestTrackers:
    def test_tensorboard_writes_the_curve_beside_the_run(self, tmp_path, plain):
        accumulator = pytest.importorskip(
            "tensorboard.backend.event_processing.event_accumulator"
        ).EventAccumulator
        outcome = run(log_with="tensorboard", folder=tmp_path / "run" / "checkpoints")
        (events,) = (tmp_path / "run" / "logs").rglob("events.out.tfevents.*")
        found = accumulator(str(events.parent)).Reload()
        losses = [event.value for event in found.Scalars("loss")]
        assert losses == pytest.approx(curve(plain))
        assert [event.value for event in found.Scalars("heldout_loss")] == pytest.approx(
            [outcome["final_loss"]]
        )

    def test_it_is_off_by_default(self, tmp_path):
        run(folder=tmp_path / "run" / "checkpoints")
        assert not list(tmp_path.rglob("events*"))

    def test_a_tracker_without_a_place_to_write_is_refused(self):
        with pytest.raises(FlopsFitError, match="log_with: tensorboard"):
            run(log_with="tensorboard")


class TestBitsPerByte:
    def test_they_are_the_loss_in_bits_over_the_bytes_of_a_token(self, plain):
        assert plain["bits_per_byte"] == pytest.approx(plain["final_loss"] / math.log(2) / 1.5)

    def test_the_halves_of_a_split_dataset_know_its_tokenizer(self):
        assert [bytes_per_token(part) for part in split_by_hash(Text())] == [1.5, 1.5]
        assert bytes_per_token([1, 2]) is None

    def test_without_a_known_tokenizer_there_are_none(self, plain, monkeypatch):
        monkeypatch.setattr(Text, "bytes_per_token", None)
        outcome = run()
        assert outcome["bits_per_byte"] is None
        assert outcome["final_loss"] == plain["final_loss"]


class TestSpeed:
    @pytest.mark.parametrize(
        ("name", "number_format", "tflops"),
        [
            ("NVIDIA H100 80GB HBM3", "bf16", 989.4),
            ("NVIDIA H100 PCIe", "bf16", 756),
            ("NVIDIA H200", "tf32", 494.7),
            ("NVIDIA GH200 480GB", "bf16", 989.4),
            ("NVIDIA A100-SXM4-80GB", "fp32", 19.5),
            ("NVIDIA B200", "bf16", 2250),
            ("NVIDIA L40S", "bf16", 362),
            ("NVIDIA L4", "bf16", 121),
            ("Tesla V100-SXM2-32GB", "fp16", 125),
            ("NVIDIA GeForce RTX 4090", "fp16", 165.2),
        ],
    )
    def test_known_devices_have_their_dense_peak(self, name, number_format, tflops):
        assert known_peak(name, number_format) == pytest.approx(1e12 * tflops)

    @pytest.mark.parametrize(
        "name",
        [
            "NVIDIA GeForce RTX 4090 Laptop GPU",
            "NVIDIA A10G",
            "NVIDIA A1000",
            "NVIDIA L40",
            "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
            "AMD EPYC",
        ],
    )
    def test_devices_with_similar_names_are_not_taken_for_them(self, name):
        assert known_peak(name, "bf16") is None

    def test_a_format_that_a_card_lacks_is_measured_not_guessed(self):
        assert known_peak("Tesla V100-SXM2-32GB", "bf16") is None

    def test_peaks_fall_with_the_width_of_the_format(self):
        order = ("bf16", "tf32", "fp32")
        for name, peaks in PEAK_TFLOPS.items():
            rates = [peaks[key] for key in order if key in peaks]
            assert rates == sorted(rates, reverse=True), name

    def test_a_measured_peak_is_kept_and_leaves_the_random_state_alone(self):
        state = torch.get_rng_state()
        first = peak_flops(CPU, "no")
        assert torch.equal(torch.get_rng_state(), state)
        assert 1e8 < first < 1e14
        assert peak_flops(CPU, "no") == first
        assert measured_peak.cache_info().hits > 0

    def test_a_peak_is_measured_with_what_memory_is_left(self, monkeypatch):
        def product(a):
            if len(a) > 512:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return 1e-4

        monkeypatch.setattr(devices, "_seconds_of_product", product)
        assert measured_peak.__wrapped__(CPU, "fp32", 1) == pytest.approx(2 * 512**3 / 1e-4)

    def test_the_share_is_flops_per_second_over_the_peak(self):
        outcome = {"tokens_per_second": 1000.0, "peak_flops_per_second": 8e6}
        assert speed(outcome, 2000.0) == {"flops_per_second": 2e6, "peak_share": 0.25}
        assert speed(outcome, 0.0) == {"flops_per_second": None, "peak_share": None}

    def test_an_outcome_names_its_device_and_its_peak(self, plain):
        assert plain["device_name"] == device_name(CPU) != ""
        share = speed(plain, 6.0 * plain["num_params"])["peak_share"]
        assert 0 < share < 1
        json.dumps(plain, allow_nan=False)


def test_every_option_of_the_config_reaches_the_trainer():
    """A resource or setting that the job forgets to hand on would be dead."""
    recipe = recipes.identity(
        schedule={"kind": "linear"}, precision="bf16", deterministic=True, expected_items=7, seed=3
    ) | {"batch_growth": [[8, 4]]}
    recipe["optimizer"]["clip_norm"] = 0.5
    value = recipes.spec(recipe) | {"max_epochs": 2}
    value["resources"] |= {
        "micro_batch_items": 2,
        "compile": True,
        "activation_checkpointing": True,
        "checkpoint_minutes": 1,
        "checkpoint_store": "memory://there",
        "loader_workers": 5,
        "log_with": "tensorboard",
    }
    given = vars(options_of(Spec.from_dict(value), processes=6, gpus=6))
    default = vars(TrainOptions(0, 0, 0.0))
    assert [name for name in default if given[name] == default[name]] == ["progress"]
    assert set(Resources().for_trainer()) <= set(default)
