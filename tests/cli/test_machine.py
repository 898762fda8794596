"""A budget given as hours of devices, or as money."""

import argparse
import json

import pytest
from published_schemas import problems
from simulated import LAWS, sweep

from flops_fit.cli import predict
from flops_fit.errors import FlopsFitError
from flops_fit.experiment.places import measured_file
from flops_fit.files import write_json, write_object
from flops_fit.fit import fit_runs, optimum_at
from flops_fit.fit import predict as answer_at
from flops_fit.fit.result import read_fit


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("machine") / "fit.json"
    fit = fit_runs(sweep(LAWS["besiroglu"], noise=0.003), bootstrap=50, sensitivity=False)
    write_json(path, fit.to_dict())
    return path


def ask(file, capsys, *options):
    parser = argparse.ArgumentParser()
    predict.add_arguments(parser)
    predict.run(parser.parse_args(["--fit", str(file), *map(str, options)]))
    return capsys.readouterr().out


def test_hours_of_devices_give_their_flops_and_another_day(file, capsys):
    options = ("--hours", 10, "--devices", 4, "--flops-per-second", 1e14)
    answer = json.loads(ask(file, capsys, *options, "--json"))
    fit, flops = read_fit(file), 10 * 3600 * 4 * 1e14
    assert problems("answer", answer) == []
    assert answer["purchase"]["flops"] == answer["flops"] == flops
    assert answer["params"] == answer_at(fit, flops).params
    more = answer["purchase"]["one_more_day"]
    assert more["flops"] == pytest.approx(flops * 34 / 10)
    assert more["loss"] == optimum_at(fit, more["flops"]).loss
    assert answer["purchase"]["money"] is None
    text = ask(file, capsys, *options)
    assert "10 hours of 4 devices at 10¹⁴ FLOP/s each (as stated)" in text
    assert f"loss {more['loss']:.4f} ({more['loss'] - answer['loss']:+.4f} nats per token)" in text


def test_money_pays_for_hours_and_a_device_has_a_share_of_its_peak(file, capsys):
    options = ("--money", 5000, "--devices", 8, "--device", "H100", "--per-hour", 2.5)
    bought = json.loads(ask(file, capsys, *options, "--json"))["purchase"]
    assert bought["hours"] == pytest.approx(250)
    assert bought["money"] == pytest.approx(5000)
    assert bought["flops"] == pytest.approx(250 * 3600 * 8 * 0.3 * 989.4e12)
    line = "250 hours of 8 devices at 2.97×10¹⁴ FLOP/s each (30% of the bf16 peak of H100), for 5000.00"
    assert f"{line} (2.5 for an hour of one): C = " in ask(file, capsys, *options)
    assert bought["source"] == "30% of the bf16 peak of H100"


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_a_measured_speed_is_used(file, capsys, tmp_path, kind):
    rate = {"flops_per_second": 2e13, "step_seconds": 0.1, "source": "measured here"}
    measured_file(tmp_path, kind).parent.mkdir(parents=True)
    write_object(measured_file(tmp_path, kind), rate)
    text = ask(file, capsys, "--hours", 1, "--results", tmp_path)
    assert "1 hour of one device at 2×10¹³ FLOP/s each (measured here): C = 7.2×10¹⁶" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hours", 1], "--hours: needs the speed of a device; allowed: with --device NAME"),
        (
            ["--hours", 1, "--device", "8x H100"],
            "'8x H100' is several devices; allowed: the name of",
        ),
        (
            ["--hours", 1, "--device", "DGX H100"],
            "'DGX H100' is several devices; allowed: the name of",
        ),
        (
            ["--hours", 1, "--flops-per-second", 400],
            "400; allowed: the FLOP/s of one device, 1e+06 to",
        ),
        (
            ["--hours", 1, "--flops-per-second", 3e15, "--device", "H100"],
            "3e+15; allowed: the FLOP/s of one H100, 1e+06 to 1.979e+15 (400 TFLOP/s are 4e14)",
        ),
        (["--hours", 1, "--device", "H1000"], "pricing.device: 'H1000' is not known with bf16"),
        (["--hours", -1, "--device", "H100"], "hours: -1.0; allowed: a positive finite number"),
        (["--hours", 1, "--device", "H100", "--devices", 0], "devices: 0; allowed: a positive"),
        (["--money", 1, "--device", "H100"], "money: needs the price of a device; allowed: with"),
        (["--flops", 1e20, "--devices", 2], "--devices: allowed: with --hours or --money"),
    ],
)
def test_what_cannot_be_turned_into_flops_is_refused(file, capsys, tmp_path, options, message):
    with pytest.raises(FlopsFitError) as error:
        ask(file, capsys, *options, "--results", tmp_path)
    assert message in str(error.value)
