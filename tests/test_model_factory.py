"""Models built by the contract: arguments checked, N taken, inputs unpacked."""

import numpy as np
import pytest
import torch
from torch import nn

from flops_fit.errors import FlopsFitError
from flops_fit.model_factory import call_model, create_model, create_on_meta, num_params


class Net(nn.Module):
    """Width by argument; one frozen layer; a buffer that NumPy made."""

    def __init__(self, width: int, depth: int = 1):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(width, width) for _ in range(depth)))
        self.frozen = nn.Linear(width, 3).requires_grad_(False)
        self.register_buffer("table", torch.from_numpy(np.ones(3)))

    def forward(self, x):
        return self.layers(x)


def test_a_model_is_built_with_its_size_and_arguments():
    model = create_model(Net, "width", 4, {"depth": 2})
    assert [tuple(layer.weight.shape) for layer in model.layers] == [(4, 4), (4, 4)]


def test_on_the_meta_device_no_tensor_has_memory_not_even_one_from_numpy():
    model = create_on_meta(Net, "width", 100_000, {"depth": 2})
    assert {t.device.type for t in [*model.parameters(), *model.buffers()]} == {"meta"}
    assert num_params(model) == 2 * (100_000**2 + 100_000)


@pytest.mark.parametrize(
    ("size_param", "kwargs", "message"),
    [
        ("widht", {}, r"model: Net has no argument 'widht'.*did you mean 'width'"),
        ("width", {"dept": 1}, r"model\.kwargs: Net has no argument 'dept'.*did you mean 'depth'"),
        ("width", {"width": 4}, r"model\.kwargs: 'width' is set by flops-fit"),
        ("depth", {}, r"model\.kwargs: Net needs 'width'"),
    ],
)
def test_arguments_that_do_not_fit_are_named_with_their_key(size_param, kwargs, message):
    with pytest.raises(FlopsFitError, match=message):
        create_model(Net, size_param, 4, kwargs)


def test_a_failing_constructor_is_reported_in_one_line_with_its_place():
    with pytest.raises(FlopsFitError) as error:
        create_model(Net, "width", -1)
    assert str(error.value).startswith("model: Net(width=-1) cannot be built: RuntimeError: ")
    assert "test_model_factory.py:" in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_module_is_refused():
    with pytest.raises(FlopsFitError, match=r"<lambda>\(n=3\) returned a list, not a torch.nn"):
        create_model(lambda n: [n], "n", 3)


def test_n_is_the_models_word_else_its_trainable_parameters_counted_once():
    model = Net(4)
    assert num_params(model) == 4 * 4 + 4
    model.again = model.layers
    assert num_params(model) == 4 * 4 + 4
    model.num_params = lambda: 7
    assert num_params(model) == 7


@pytest.mark.parametrize("value", [0, -1, True, 3.0, "7", None])
def test_a_num_params_that_is_no_positive_integer_is_refused(value):
    model = Net(4)
    model.num_params = lambda: value
    with pytest.raises(FlopsFitError, match=r"Net\.num_params\(\) returned .*positive integer"):
        num_params(model)


def test_a_num_params_that_fails_and_a_model_without_parameters_are_named():
    model = Net(4)
    model.num_params = lambda: 1 / 0
    with pytest.raises(FlopsFitError, match=r"Net\.num_params\(\) fails: ZeroDivisionError.*\.py:"):
        num_params(model)
    with pytest.raises(FlopsFitError, match="ReLU has no trainable parameters"):
        num_params(nn.ReLU())


def test_tensors_tuples_and_mappings_reach_the_model_as_the_contract_says():
    class Echo(nn.Module):
        def forward(self, *args, **kwargs):
            return args, kwargs

    x, y = torch.zeros(1), torch.ones(1)
    assert call_model(Echo(), x) == ((x,), {})
    assert call_model(Echo(), (x, y)) == call_model(Echo(), [x, y]) == ((x, y), {})
    assert call_model(Echo(), {"a": x, "b": y}) == ((), {"a": x, "b": y})


@pytest.mark.parametrize(
    "layer",
    [
        nn.LazyLinear(4),
        nn.LazyConv1d(4, 3),
        nn.Sequential(nn.Linear(4, 4), nn.LazyBatchNorm1d()),
        nn.LazyInstanceNorm1d(affine=True),
    ],
)
def test_lazy_layers_are_refused_until_a_first_item_has_given_them_shapes(layer):
    with pytest.raises(FlopsFitError, match=r"uninitialised until the first batch: .*Lazy"):
        create_model(lambda width: nn.Sequential(nn.ReLU(), layer), "width", 4)


def test_a_factory_that_passes_an_item_through_may_use_them():
    def factory(width):
        model = nn.Sequential(nn.LazyLinear(width), nn.LazyBatchNorm1d())
        model(torch.zeros(2, 3))
        return model

    assert create_model(factory, "width", 4)[0].weight.shape == (4, 3)
