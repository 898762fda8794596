"""The plan as people see it: priced rows, warnings in words, a table, a page."""

import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from plans import cell, grid, plan_of
from simulated import LAWS, loss_of

from flops_fit.cli.main import main
from flops_fit.constants import TABLE_NAMES
from flops_fit.experiment.options import Resources
from flops_fit.experiment.plan import Plan
from flops_fit.fit import fit_runs, predict, read_runs
from flops_fit.notation import time_text
from flops_fit.plan.gpu_memory import gpu_bytes
from flops_fit.plan.peaks import PEAK_TFLOPS
from flops_fit.plan.planner import UNTUNED, rate_origin
from flops_fit.plan.price import Rate, usable_cores
from flops_fit.plan.table import COLUMNS, closing, format_plan, opening, plan_csv, plan_rows, totals
from flops_fit.plan.warnings import plan_warnings
from flops_fit.plots.plan import plan_figure
from flops_fit.report.plan_page import plan_page
from flops_fit.store.collect import planned_table
from flops_fit.sweep import Skipped

RATE = Rate(1e10, 0.01, "measured by nobody")


def warned(cells, answers=(), unique=None, **options):
    plan = plan_of(cells, **options)
    return plan_warnings(plan, plan_rows(plan, RATE, None, unique), answers)


def test_a_row_carries_what_can_be_derived():
    plan = plan_of([cell(6e10, 10_000)])
    (row,) = plan_rows(plan, RATE, 2.0, unique_tokens=400_000)
    assert row.experiment.num_tokens == 10**6
    assert row.tokens_per_param == 100
    assert row.epochs == 2.5
    assert row.phases == {"warmup": 50, "plateau": 750, "decay": 200}
    assert row.batch_tokens == 32
    assert row.counted_over_6nd == pytest.approx(1.1)
    assert row.price.seconds == pytest.approx(6 + 10 + 6.6)
    assert row.price.money == pytest.approx(2.0 * 22.6 / 3600)


@pytest.mark.parametrize(("sharing", "first"), [(1, 3), (4, 2)])
def test_runs_that_do_not_fit_into_a_gpu_or_their_share_of_it_are_named(sharing, first):
    cells = [cell(1e12, params) for params in (10**6, 10**7, 10**8, 10**9)]
    resources = Resources(gpus=1, runs_per_gpu=sharing)
    plan = replace(plan_of(cells), resources=resources)
    rows = plan_rows(plan, RATE, None, None)
    memory = [row.price.memory_bytes for row in rows]
    device = sharing * (memory[first - 1] + memory[first]) / 2
    (sentence,) = [s for s in plan_warnings(plan, rows, (), device) if "GB of a GPU" in s]
    names = sentence.partition(":")[0].split(", ")
    assert names == [c.experiment_id for c in cells[first:]]
    assert ("for each of 4 runs" in sentence) == ("runs_per_gpu" in sentence) == (sharing > 1)
    assert not [s for s in plan_warnings(plan, rows, (), None) if "GB of a GPU" in s]
    on_cpu = replace(plan, resources=Resources())
    assert not [s for s in plan_warnings(on_cpu, rows, (), 1.0) if "GB of a GPU" in s]


def test_the_advice_is_on_the_batch_that_takes_most_memory():
    counts = [replace(e.count, evaluation_bytes=1e13) for e in grid()]
    cells = [replace(e, count=count) for e, count in zip(grid(), counts, strict=True)]
    for experiments, advice in (
        (grid(), "lower resources.micro_batch_items"),
        (cells, "lower evaluation.batch_items"),
    ):
        plan = replace(plan_of(experiments), resources=Resources(gpus=1))
        rows = plan_rows(plan, RATE, None, None)
        assert advice in plan_warnings(plan, rows, (), 1e6)[0]


@pytest.mark.parametrize(
    ("name", "gigabytes"),
    [
        ("H100", 80),
        ("NVIDIA H200", 141),
        ("NVIDIA A100-SXM4-40GB", 40),
        ("NVIDIA A100-SXM4-80GB", 80),
        ("A100", 40),
        ("NVIDIA L40S", 48),
        ("NVIDIA L4", 24),
        ("Voodoo", None),
    ],
)
def test_the_memory_of_a_named_gpu(name, gigabytes):
    assert gpu_bytes(name) == (gigabytes and 1e9 * gigabytes)


def test_every_gpu_of_the_table_of_peaks_has_a_memory():
    for pattern in PEAK_TFLOPS:
        assert gpu_bytes(pattern.strip("$").replace("G?", "").replace("[23]", "2")), pattern


def test_totals_add_up():
    rows = plan_rows(plan_of(grid()), RATE, 1.0, None)
    total = totals(rows)
    assert total.experiments == 15
    assert total.budgets == 3
    assert total.money == pytest.approx(sum(r.price.seconds for r in rows) / 3600)
    assert total.longest_seconds == max(r.price.seconds for r in rows)
    assert totals(plan_rows(plan_of(grid()), RATE, None, None)).money is None


def test_the_csv_has_every_column_and_row():
    rows = plan_rows(plan_of(grid()), RATE, None, None)
    table = list(csv.DictReader(io.StringIO(plan_csv(rows))))
    assert len(table) == 15
    assert tuple(table[0]) == COLUMNS
    assert not TABLE_NAMES.keys() & set(COLUMNS)  # one name for a quantity in tables
    assert float(table[3]["tokens_per_param"]) == pytest.approx(60, rel=1e-3)


@pytest.mark.parametrize("convention", ["counted", "6nd"])
def test_the_csv_says_what_the_table_of_results_will_say(convention):
    plan = replace(plan_of(grid()), convention=convention)
    for row, later in zip(plan_rows(plan, RATE, None, None), planned_table(plan), strict=True):
        now = row.to_dict()
        shared = now.keys() & later.keys() - {"steps", "batch_items", "learning_rate", "epochs"}
        assert {"experiment_id", "budget", "params", "tokens", "flops", "flops_6nd"} <= shared
        assert {k: now[k] for k in shared} == pytest.approx({k: later[k] for k in shared})


@pytest.mark.parametrize("convention", ["counted", "6nd"])
def test_a_plan_with_losses_added_by_hand_gives_the_law_on_the_planned_costs(tmp_path, convention):
    law = LAWS["besiroglu"]

    def per_token(n):  # attention and the head weigh more in small models
        return 6 * n * (1 + (2e6 / n) ** 0.5) if convention == "counted" else 6 * n

    def planned(budget, n):
        tokens = round(budget / per_token(n))
        made = cell(budget, n, tokens=tokens)
        return replace(
            made, count=replace(made.count, flops_per_token=6 * n * (1 + (2e6 / n) ** 0.5))
        )

    cells = [planned(c, round(n)) for c in (1e17, 1e18, 1e19) for n in np.geomspace(5e6, 1e9, 9)]
    plan = replace(plan_of(cells), convention=convention)
    (tmp_path / "plan.csv").write_text(plan_csv(plan_rows(plan, RATE, None, None)))
    frame = pd.read_csv(tmp_path / "plan.csv")
    frame["loss"] = loss_of(law, frame["params"], frame["tokens"])
    frame.to_csv(tmp_path / "runs.csv", index=False)
    answer = predict(
        fit_runs(read_runs(tmp_path / "runs.csv"), bootstrap=0, sensitivity=False), 3e19
    )
    n = np.geomspace(1e7, 1e10, 200_001)
    best = n[np.argmin(loss_of(law, n, 3e19 / per_token(n)))]
    assert answer.params == pytest.approx(best, rel=0.002)
    assert answer.tokens == pytest.approx(3e19 / per_token(best), rel=0.002)


SHARED = {"kind": "trunk", "warmup_tokens": 2000, "cooldown": 0.2, "shape": "sqrt", "final": 0.0}


def test_short_ends_and_the_warmup_of_a_trunk_are_warned_of():
    fewest = min(e.num_tokens for e in grid())

    def said(share, steps=1000):
        schedule = {**SHARED, "warmup_tokens": round(share * fewest)}
        return "\n".join(warned(grid(steps=steps), schedule=schedule))

    assert "fewer than about" not in said(0.05)
    assert "15 of 15 runs have fewer than about 1,000 steps (the fewest: 999)" in said(0.05, 999)
    assert "of the shortest run, which raises its loss" not in said(0.1)
    assert "the warm-up takes 30% of the shortest run" in said(0.3)
    assert "the shortest warm-up has 0 steps" in said(1e-4)
    assert "raise schedule.warmup_tokens" in said(1e-4)


def test_a_good_plan_is_not_warned_of():
    assert warned(grid(), answers=[1e15]) == []


@pytest.mark.parametrize(
    ("cells", "options", "sentence"),
    [
        (grid(budgets=[1e12, 1e14]), {}, r"^2 budgets: a power law .* 3 or more"),
        (grid(budgets=[1e12, 2e12, 4e12]), {}, r"^the budgets span a factor of 4"),
        (grid(ratios=[5, 20.5, 80]), {}, r"^budget 10¹² has 3 sizes: .* fewer than 5"),
        (grid(ratios=[15, 17, 21, 25, 30]), {}, r"span a factor of 1.4 in N: .* look flat"),
        (
            grid(ratios=[30, 60, 120, 400, 900]),
            {},
            r"30 to 900 tokens .* one side of the 20 .* larger",
        ),
        (grid(ratios=[0.1, 1, 2, 5, 10]), {}, r"0.1 to 10 tokens .* add smaller sizes"),
        (
            grid(ratios=[18, 19.5, 20.5, 22, 23.5]),
            {},
            r"^the condition number of the design is .*D / N varies by a factor of 1.3",
        ),
        (grid(ratios=[20.5]), {}, r"^every run has the same D / N: .* how the loss falls as both"),
        (
            [cell(c, 10**5) for c in (1e12, 1e13, 1e14)],
            {},
            r"^every run has the same N: .* with D \(L = E \+ B / D\^beta\)",
        ),
        (
            [cell(6e6 * n, n, tokens=10**6) for n in (10**5, 10**6, 10**7)],
            {},
            r"^every run has the same D: .* with N .* what more tokens are worth",
        ),
        (grid(steps=80), {}, r"^15 of 15 runs have fewer than 100 steps .* 80"),
        (grid(steps=120), {"warmup": 0.02}, r"^the shortest warm-up has 2 steps"),
        (grid(), {"answers": [1e15, 2e15]}, r"^an answer is asked for at 2×10¹⁵ FLOPs, 20 times"),
        (grid(), {"unique": 3 * 10**6}, r"runs repeat data, up to .* passes: beyond 4"),
    ],
)
def test_what_may_go_wrong_is_said_in_words(cells, options, sentence):
    found = warned(cells, **options)
    assert any(re.search(sentence, text) for text in found), found


@pytest.mark.parametrize(
    ("config", "origin"),
    [
        ({"learning_rate": {"value": 1}}, UNTUNED),
        ({"learning_rate": {"function": "a:b"}}, UNTUNED),
        ({"learning_rate": {"file": "lr.json"}}, "by the rule in lr.json"),
        ({"learning_rate_factors": [1, 2]}, "tuned by this sweep"),
        ({"batch_factors": [1, 2, 3]}, "tuned by this sweep"),
    ],
)
def test_a_plan_says_where_its_learning_rates_are_from(config, origin):
    given = {"learning_rate": {"value": 1}, "learning_rate_factors": [1]} | config
    assert rate_origin(given) == origin
    plan = replace(plan_of(grid()), rate_from=origin)
    assert Plan.from_dict(plan.to_dict()).rate_from == origin
    lines = closing(plan, plan_rows(plan, RATE, None, None), RATE, "$")
    assert lines[2] == f"learning rate: {origin}"


def test_the_ratio_of_tokens_is_not_held_against_images():
    assert warned(grid(ratios=[30, 60, 120, 400, 900], tokens_per_item=1)) == []


def test_a_batch_floor_that_drops_one_side_is_named():
    cells = grid()
    sizes = [c.count.params for c in cells if c.compute_budget == 1e12]
    reason = "3 steps of 8 items; the floor is 8"
    skipped = [Skipped(1e12, max(sizes) * k, reason) for k in (2, 3)]
    (text,) = warned(cells, skipped=skipped)
    assert re.search(r"drops the 2 largest sizes of budget 10¹²: .* right side", text)


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.ids, self.outside, self.rows = set(), [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids.add(attributes.get("id"))
        self.rows += tag == "tr"
        for key in ("src", "href"):
            value = attributes.get(key) or ""
            if not value.startswith(("#", "data:")) and value:
                self.outside.append(value)


def test_the_page_shows_the_grid_the_price_and_the_warnings_without_a_network():
    plan = plan_of(grid())
    rows = plan_rows(plan, RATE, 3.0, None)
    figure = plan_figure(rows)
    page = Page(text := plan_page("mine", plan, rows, ["d=1: odd", "too few"], RATE, "€", figure))
    assert {"price", "warnings", "grid", "experiments"} <= page.ids
    assert page.outside == []
    assert page.rows == 1 + 15
    assert "d=1: odd." in text
    assert "Too few." in text
    assert f"€{totals(rows).money:.2f}" in text
    assert "measured by nobody" in text
    assert f"<h1>About {time_text(totals(rows).device_hours * 3600 / usable_cores(), 2)} on" in text
    assert "15 runs at 3 budgets" in text
    assert "The time is an estimate at 1" in text
    assert "<p>Condition number of the design: " in text
    assert {"budgets"} <= page.ids
    assert text.count("data-budget=") == 3
    marked = re.findall(r'data-c="([^"]+)"', text)
    assert {float(c) for c in marked} == {e.compute_budget for e in plan.experiments}
    for row in rows:
        assert f"<title>{row.experiment.experiment_id}: C " in text
    assert plan_figure(rows) == figure  # the same bytes, so that nothing is stale


def test_the_sentence_of_a_plan_counts_the_runs_that_a_machine_holds():
    rows = plan_rows(plan_of(grid()), RATE, 3.0, None)
    total = totals(rows)

    def seconds(cores, **resources):
        plan = replace(plan_of(grid()), resources=Resources(**resources))
        return opening(plan, rows, "$", cores)

    assert seconds(1).startswith(f"About {time_text(total.seconds, 2)} on this machine's core, $")
    assert f"About {time_text(total.seconds / 3, 2)} on this machine's 6 cores" in seconds(
        6, threads=2
    )
    assert f"About {time_text(total.longest_seconds, 2)} on" in seconds(10_000)
    assert f"About {time_text(total.seconds, 2)} on" in seconds(2, threads=4)
    assert f"About {total.device_hours:.3g} GPU hours, $" in seconds(2, gpus=1)


def test_the_terminal_table_ends_with_what_it_takes():
    plan = plan_of(grid(), skipped=[Skipped(1.0, 3, "why")])
    rows = plan_rows(plan, RATE, 2.0, None)
    lines = format_plan(plan, rows, ["careful"], RATE, "$").splitlines()
    assert len(lines) == 1 + 15 + 1 + 1 + 4
    assert "warning: careful" in lines
    assert "skipped: budget 10⁰, size 3: why" in lines
    assert f"${totals(rows).money:.2f}" in lines[-3]


def test_the_command_prices_by_its_options(tmp_path, capsys):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan_of(grid()).to_dict()))
    out, page, summary = (tmp_path / f"plan.{kind}" for kind in ("csv", "html", "txt"))
    arguments = [
        "plan",
        "--plan",
        str(path),
        "--out",
        str(out),
        "--page",
        str(page),
        "--name",
        "x",
        "--results",
        str(tmp_path),
        "--summary",
        str(summary),
    ]
    priced = ["--device", "H100", "--per-hour", "3"]
    assert main([*arguments, *priced]) == 0
    printed = capsys.readouterr().out
    assert "30% of the fp32 peak of H100" in printed
    said = summary.read_text().splitlines()
    assert all(line in printed for line in said)
    assert [line for line in said if "30% of the fp32 peak of H100" in line]
    assert sum(line.startswith("warning: ") for line in said) == printed.count("\nwarning: ")
    assert float(next(csv.DictReader(out.open()))["money"]) > 0
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert main([*arguments, "--device", "PDP-11"]) == 2
    assert "pricing.device: 'PDP-11' is not known" in capsys.readouterr().err


@pytest.mark.seconds
def test_a_rate_measured_here_is_used_from_then_on(tmp_path, capsys, monkeypatch):
    (tmp_path / "tiny_module.py").write_text(
        "import os\nimport torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, width):\n"
        "        super().__init__()\n"
        "        self.net = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))\n"
        "    def forward(self, x):\n"
        "        if self.training and x.device.type == 'cpu' and 'PASSES' in os.environ:\n"
        "            open(os.environ['PASSES'], 'a').write(str(len(x)))\n"
        "        return self.net(x)\n"
        "def data():\n"
        "    x = torch.arange(4000.0).view(1000, 4)\n"
        "    return torch.utils.data.TensorDataset(x, torch.zeros(1000, dtype=torch.long))\n"
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(
        "name: m\nmodel: {factory: 'tiny_module:Net', size_param: width}\n"
        "dataset: {factory: 'tiny_module:data'}\nbudgets: [1e6, 1e7]\nbatch: {value: 16}\n"
        "sizes: {values: [8, 64]}\nresources: {micro_batch_items: 5}\n"
    )
    monkeypatch.setenv("PASSES", str(tmp_path / "passes"))
    assert main(["plan", "--config", "c.yaml", "--measure"]) == 0
    assert "measured here on" in capsys.readouterr().out
    passes = (tmp_path / "passes").read_text().lstrip("2")  # of the planner
    assert len(passes) % 4 == 0  # of 16 items in each step
    assert set(passes) == {"4"}
    rate = json.loads((tmp_path / "results/.plan/rate-cpu.json").read_text())
    assert 0 <= rate["step_seconds"] < 1
    assert rate["flops_per_second"] > 0
    assert main(["plan", "--config", "c.yaml"]) == 0
    assert "measured here on" in capsys.readouterr().out


def test_a_sweep_of_rates_is_not_warned_about_a_law_that_it_does_not_fit():
    cells = [cell for cell in grid() if cell.compute_budget == 1e12]
    rates = [replace(c, learning_rate=rate) for c in cells for rate in (0.01, 0.02)]
    assert any("a power law of the optimum" in text for text in warned(cells))
    assert not any("a power law of the optimum" in text for text in warned(rates))
