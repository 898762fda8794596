"""The answer page and table: their numbers are the fit's, and the page stands alone."""

import argparse
import base64
import hashlib
import json
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import measured_sweep
import numpy as np
import pandas as pd
import pytest
import yaml

from flops_fit.cli import plot, report
from flops_fit.cli.main import main
from flops_fit.errors import FlopsFitError
from flops_fit.files import write_json
from flops_fit.fit import (
    ask,
    fit_runs,
    optimum_at,
    predict,
    prepare_runs,
    read_fit,
    read_runs,
    sensitivity_at,
    spread_of,
)
from flops_fit.fit.purchase import Machine
from flops_fit.fit.rows import LeftOut
from flops_fit.fit.sigmoid import AccuracyEntry
from flops_fit.notation import count_text, flops_text, loss_text
from flops_fit.plots import FIGURES
from flops_fit.report.answer_text import model_of, program_of
from flops_fit.report.commands import place
from flops_fit.report.figures import inline_svg
from flops_fit.report.humps import humps_of, humps_sentence
from flops_fit.report.latex import latex
from flops_fit.report.opening import UNDETERMINED, studied
from flops_fit.report.page import report_page
from flops_fit.report.table import markdown_table
from flops_fit.store.collect import run_table

pytestmark = pytest.mark.seconds

BUDGETS = [8.1e11, 2.43e12, 8.1e13]
SECTIONS = [
    "answer",
    "why",
    "heldout",
    "sensitivity",
    "range",
    "health",
    "limitations",
    "reproduce",
]
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Elements with their attributes and texts, and where each stands."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)
        assert not self.open, f"never closed: {self.open[-1]['tag']}"

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "attrs": dict(attrs), "text": "", "within": list(self.open)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag=None, within=None, **attributes):
        return [
            e
            for e in self.elements
            if (tag is None or e["tag"] == tag)
            and (within is None or within in e["within"])
            and all(e["attrs"].get(k.replace("_", "-")) == v for k, v in attributes.items())
        ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A sweep's tables, fit, figures, page and table, made by the commands."""
    folder = tmp_path_factory.mktemp("sweep")
    runs = [*measured_sweep.records(), measured_sweep.diverged(), measured_sweep.failed()]
    measured_sweep.write(folder, runs)
    write_json(folder / "plan.json", measured_sweep.plan(runs))
    write_json(
        folder / "fit.json", fit_runs(read_runs(folder / "results.csv"), bootstrap=60).to_dict()
    )
    command("plot", folder, "--out-dir", folder / "plots", "--dpi", "50")
    command(
        "report",
        folder,
        "--plots",
        folder / "plots",
        "--plan",
        folder / "plan.json",
        "--name",
        "demo",
        "--out",
        folder / "report.html",
        "--table",
        folder / "table.md",
        "--tex",
        folder / "table.tex",
        "--summary",
        folder / "answer.txt",
        "--budgets",
        *map(str, BUDGETS),
    )
    return folder


@pytest.fixture(scope="module")
def fit(folder):
    return read_fit(folder / "fit.json")


@pytest.fixture(scope="module")
def page(folder):
    return Page((folder / "report.html").read_text())


def command(verb, folder, *more, **replaced):
    """Run plot or report on the tables in ``folder``."""
    module = {"plot": plot, "report": report}[verb]
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    files = {"runs": "results.csv", "records": "results.json", "fit": "fit.json", **replaced}
    options = [o for key, name in files.items() if name for o in (f"--{key}", folder / name)]
    module.run(parser.parse_args([str(o) for o in (*options, *more)]))


def numbers(page, element):
    """The numbers that an element shows, in order."""
    return [float(e["attrs"]["value"]) for e in page.all("data", within=element)]


def test_the_sections_stand_in_order(page):
    assert [e["attrs"]["id"] for e in page.all("section")] == SECTIONS


def test_the_numbers_on_the_page_are_those_of_predict(page, fit):
    writers = {
        "params": count_text,
        "tokens": count_text,
        "tokens_per_param": count_text,
        "loss": loss_text,
    }
    cards = page.all("article")
    assert [float(c["attrs"]["data-flops"]) for c in cards] == BUDGETS
    for card in cards:
        answer = predict(fit, float(card["attrs"]["data-flops"]))
        assert flops_text(answer.flops) in card["text"]
        for name, write in writers.items():
            (cell,) = page.all("dd", within=card, data_name=name)
            value, low, high = page.all("data", within=cell)
            assert float(value["attrs"]["value"]) == getattr(answer, name)
            assert value["text"] == write(getattr(answer, name))
            assert [float(e["attrs"]["value"]) for e in (low, high)] == answer.ci[name]
            assert [e["text"] for e in (low, high)] == [write(v) for v in answer.ci[name]]
            (noise,) = page.all("dd", within=card, data_name=f"noise_{name}")
            assert numbers(page, noise) == answer.ci_noise[name]
        for share in ("1", "5"):
            (near,) = page.all("dd", within=card, data_name=f"range_{share}pct")
            assert near["text"] == " – ".join(map(count_text, getattr(answer, f"range_{share}pct")))
            assert numbers(page, near) == getattr(answer, f"range_{share}pct")
        (choices,) = page.all("dd", within=card, data_name="choices")
        assert numbers(page, choices) == spread_of(sensitivity_at(fit, answer.flops))["all"]
        (config,) = page.all("code", within=card, data_name="config")
        wanted = yaml.safe_load(config["text"])
        assert wanted["sizes"] == {"values": [answer.size_value]}
        assert float(wanted["budgets"][0]) == pytest.approx(answer.flops)
        assert wanted["model"] == {
            k: measured_sweep.MODEL[k] for k in ("factory", "size_param", "kwargs")
        }
        (size,) = page.all("dd", within=card, data_name="size_value")
        assert size["text"] == f"d_model: {answer.size_value}"
        (verdict,) = [e for e in page.all("span", within=card) if "verdict" in e["attrs"]["class"]]
        assert verdict["text"] == answer.verdict
        reasons = page.all("ul", within=card, **{"class": "reasons"})
        shown = [e["text"] for ul in reasons for e in page.all("li", within=ul)]
        assert shown == answer.reasons


def test_the_page_opens_with_the_answer_of_the_largest_trusted_budget(page, fit):
    (title,) = page.all("h1")
    trusted = [answer for c in BUDGETS if (answer := predict(fit, c)).verdict == "trust"]
    best = trusted[-1] if trusted else predict(fit, BUDGETS[-1])
    assert f"With {flops_text(best.flops)} FLOPs" in title["text"]
    assert (
        f"about {count_text(best.params)} parameters (d_model\u00a0{best.size_value})"
        in title["text"]
    )
    assert f"on {count_text(best.tokens)} tokens" in title["text"]
    assert ("trust" in title["text"]) is False
    (studied,) = page.all("p", **{"class": "studied"})
    assert studied["text"].startswith("flops_fit.examples.gpt:GPT · ")
    assert f"{fit.data.n_runs} runs at 4 budgets up to 8.1×10¹¹ FLOPs" in studied["text"]


def test_each_card_shows_what_was_checked(page, fit):
    for card, budget in zip(page.all("article"), BUDGETS, strict=True):
        checks = [
            (e["attrs"]["class"], e["text"])
            for e in page.all("li", within=card)
            if e["attrs"].get("class") in ("passed", "open")
        ]
        assert len(checks) == 4
        answer = predict(fit, budget)
        far = any("times the largest budget of the data" in reason for reason in answer.reasons)
        assert checks[0][0] == ("open" if far else "passed")
        assert checks[3][0] == ("passed" if (answer.promise or 0) >= 0.9 else "open")
        if answer.verdict == "trust":
            assert {state for state, _ in checks} == {"passed"}


def test_a_question_adds_its_section_and_nothing_else(folder, fit):
    table, flops = read_runs(folder / "results.csv"), BUDGETS[0]
    plain, asked = (
        report_page(table, [], fit, folder / "plots", [flops], "demo", asked=question)
        for question in ({"serve": None}, {"serve": 1e9, "unique": 1e6})
    )
    served = ask(fit, flops, serve=1e9).served
    (rows,) = Page(asked).all("table", id="served")
    cells = [Page(asked).all("td", data_name=name)[0]["text"] for name in ("params", "tokens")]
    assert [c.split(" ")[0][:5] for c in cells] == [
        count_text(v)[:5] for v in (served.params, served.tokens)
    ]
    assert served.verdict in rows["text"]
    (few,) = Page(asked).all("td", data_name="limited")
    assert few["text"] == count_text(ask(fit, flops, unique=1e6).limited.params)
    assert "what repeats are worth is borrowed: R = 15.4" in asked
    start = asked.index('\n\n<section id="questions">')
    end = asked.index("</section>", start) + len("</section>")
    rest = asked[:start] + asked[end:]
    covered = (
        "Repeated passes over limited data, the cost of serving the model, and fine-tuning are"
    )
    assert rest == plain.replace(covered, "Fine-tuning is")


def test_an_accuracy_has_its_section(folder, fit):
    least, most = fit.data.loss
    law = [0.25, 0.9, (least + most) / 2, 0.1 * (most - least)]
    entry = AccuracyEntry(
        "task", 0.25, fit.data.n_runs, [least, most], [0.25, 0.9], law, [law], 0.0, ""
    )
    with_one = replace(fit, accuracy=entry)
    page = report_page(
        read_runs(folder / "results.csv"), [], with_one, folder / "plots", BUDGETS[:2], "demo"
    )
    cells = [cell["text"] for cell in Page(page).all("td", data_name="accuracy")]
    values = [ask(with_one, flops).accuracy.value for flops in BUDGETS[:2]]
    assert [cell[:5] for cell in cells] == [f"{value:.3f}" for value in values]
    assert "half-way at a loss of" in page
    unknown = replace(
        fit, accuracy=replace(entry, law=None, reason="task is at chance in all runs")
    )
    page = report_page(
        read_runs(folder / "results.csv"), [], unknown, folder / "plots", BUDGETS[:1], "demo"
    )
    assert "not identifiable; task is at chance in all runs" in page


def test_hours_of_devices_are_answered_for(folder, fit):
    machine = Machine(2, BUDGETS[1] / 7200, "as stated", 1.5)
    table = read_runs(folder / "results.csv")
    page = report_page(
        *(table, [], fit, folder / "plots", BUDGETS[:1], "demo"), asked={}, bought=(machine, 1.0)
    )
    now, later = Page(page).all("table", id="bought")[0]["text"].split("with one more day")
    assert count_text(predict(fit, BUDGETS[1]).params) in now
    assert loss_text(optimum_at(fit, 25 * BUDGETS[1]).loss) in later
    assert ", for 3." in page


def test_an_answer_far_beyond_the_data_says_why_it_is_provisional(page):
    far = page.all("article")[2]
    assert "provisional" in far["attrs"]["class"]
    assert "the budget is 100 times the largest budget" in far["text"]


def test_the_ranges_and_the_minima_are_those_of_the_fit(page, fit):
    (section,) = page.all("section", id="range")
    for share in ("1", "5"):
        cells = page.all("td", within=section, data_name=f"range_{share}pct")
        for cell, budget in zip(cells, BUDGETS, strict=True):
            ends = [float(e["attrs"]["value"]) for e in page.all("data", within=cell)]
            assert ends == getattr(predict(fit, budget), f"range_{share}pct")
    (minima,) = page.all("table", id="minima")
    values = [float(e["attrs"]["value"]) for e in page.all("data", within=minima)]
    expected = [
        getattr(b, key)
        for b in fit.isoflop.budgets
        for key in ("flops", "params_opt", "tokens_opt", "loss_opt", "curvature")
    ]
    assert values == expected


def test_every_estimator_stands_beside_the_headline(page, fit):
    (table,) = page.all("table", id="estimators")
    rows = page.all("tr", within=table)[1:]
    assert len(rows) == len(fit.laws)
    (headline,) = [r for r in rows if r["attrs"].get("class") == "headline"]
    values = [float(e["attrs"]["value"]) for e in page.all("data", within=headline)]
    assert values == pytest.approx([predict(fit, c).params for c in BUDGETS], rel=1e-12)


def test_every_refit_on_the_page_is_that_of_the_fit(page, fit):
    (table,) = page.all("table", id="refits")
    shown = [
        r for r in page.all("tr", within=table) if r["attrs"].get("class") in ("refit", "headline")
    ]
    expected = [r for r in sensitivity_at(fit, BUDGETS[-1]) if r.group != "headline"]
    assert len(shown) == len(expected)
    for row, refit in zip(shown, expected, strict=True):
        assert row["text"].strip().startswith(refit.label)
        assert (row["attrs"]["class"] == "headline") == refit.headline
        names = ("params", "tokens_per_param", "tokens", "loss")
        assert numbers(page, row) == [getattr(refit, name) for name in names]
        if refit.count != "params":
            assert f"{count_text(refit.own_params)} in this count" in row["text"]
            assert f"{count_text(refit.own_tokens_per_param)} in this count" in row["text"]
    (section,) = page.all("section", id="sensitivity")
    low, high = spread_of(expected)["all"]
    assert f"from {count_text(low)} to {count_text(high)}" in section["text"]


def test_predicted_and_measured_are_those_of_the_held_out_budgets(page, fit):
    (table,) = page.all("table", id="heldout-table")
    expected = [p for level in fit.heldout.levels for p in level.predictions]
    rows = page.all("tr", within=table)[1:]
    assert len(rows) == len(expected)
    for row, p in zip(rows, expected, strict=True):
        names = ("params", "params_measured", "loss", "loss_measured")
        assert numbers(page, row) == [getattr(p, name) for name in names]


def test_the_waste_at_other_sizes_is_that_of_predict(page, fit):
    (table,) = page.all("table", id="regret")
    for row, budget in zip(page.all("tr", within=table)[1:], BUDGETS, strict=True):
        assert numbers(page, row) == [r.waste for r in predict(fit, budget).regret]


def test_a_run_trained_to_confirm_the_answer_stands_beside_its_prediction(folder, fit):
    runs = measured_sweep.records()
    table = prepare_runs(pd.DataFrame(run_table(runs, "counted")))
    told = {
        "name": "demo-confirm",
        "flops": 2.43e12,
        "params": 1.2e5,
        "loss": 1.2345,
        "difference": 0.0045,
        "inside_run": True,
        "inside_law": False,
        "status": "completed",
        "reason": "",
        "predicted": {"loss": 1.23, "run": [1.21, 1.25]},
    }
    shown = Page(report_page(table, runs, fit, folder / "plots", BUDGETS, "demo", confirmed=[told]))
    (found,) = shown.all("table", id="confirmations")
    assert numbers(shown, found) == [1.23, 1.2345]
    assert "inside the interval for one run" in found["text"]


def test_an_answer_that_would_read_its_data_too_often_says_so(folder, fit):
    runs = [{**run, "epochs": 9 * run["epochs"]} for run in measured_sweep.records()]
    table = prepare_runs(pd.DataFrame(run_table(runs, "counted")))
    shown = Page(report_page(table, runs, fit, folder / "plots", BUDGETS, "demo"))
    first, _, last = shown.all("article")
    assert "This run would read the data" not in first["text"]
    assert "After 4 passes repeated data help little" in last["text"]


def test_what_was_planned_stands_beside_what_was_spent(page):
    (table,) = page.all("table", id="spent")
    first = [e["text"] for e in page.all("td", within=page.all("tr", within=table)[1])]
    assert first == ["Runs", "26", "24 completed, 1 diverged, 1 failed"]


def test_runs_left_out_and_cells_not_trained_are_listed_with_their_reasons(page):
    (health,) = page.all("section", id="health")
    (table,) = page.all("table", id="left-out")
    rows = [row["text"] for row in page.all("tr", within=table)[1:]]
    assert len(rows) == 2
    assert "diverged: the loss of step 1301 is not finite" in rows[0]
    assert "failed: out of memory" in rows[1]
    assert "5 steps of 8 items; the floor is 8" in health["text"]
    assert "24 completed, 1 diverged, 1 failed" in health["text"]


def test_every_figure_is_inline_with_its_numbers_and_no_two_ids_are_equal(page, folder):
    ids = [e["attrs"]["id"] for e in page.elements if "id" in e["attrs"]]
    assert len(ids) == len(set(ids))
    for name in FIGURES:
        (figure,) = page.all("figure", id=f"figure-{name}")
        assert page.all("svg", within=figure)[0]["attrs"]["aria-label"] == FIGURES[name]
        (link,) = page.all("a", within=figure)
        kind, content = link["attrs"]["href"].split(",")
        assert kind == "data:text/csv;base64"
        assert base64.b64decode(content) == (folder / "plots" / f"{name}.csv").read_bytes()


def test_every_reference_inside_the_page_has_its_target(page):
    ids = {e["attrs"]["id"] for e in page.elements if "id" in e["attrs"]}
    wanted = set()
    for element in page.elements:
        for key, value in element["attrs"].items():
            if key.endswith("href") and value.startswith("#"):
                wanted.add(value[1:])
            wanted |= set(re.findall(r"url\(#([^)]+)\)", value or ""))
    assert len(wanted) > 50
    assert wanted <= ids


def test_the_page_asks_for_nothing_from_outside(page):
    for element in page.elements:
        assert element["tag"] not in {"iframe", "object", "embed", "img"}
        for key, value in element["attrs"].items():
            if key in {"src", "srcset", "action"} or key.endswith("href"):
                assert value.startswith(("#", "data:")), (element["tag"], key, value)
            assert not re.search(r"url\((?!#)", value or "")
    (style,) = page.all("style")
    assert "@import" not in style["text"]
    assert "url(" not in style["text"]


def test_the_policy_of_the_page_lets_its_own_script_run_and_no_other(page):
    (policy,) = page.all("meta", http_equiv="Content-Security-Policy")
    (script,) = page.all("script")
    digest = base64.b64encode(hashlib.sha256(script["text"].encode()).digest()).decode()
    rules = [rule.split() for rule in policy["attrs"]["content"].split(";")]
    assert ["default-src", "'none'"] in rules
    assert ["script-src", f"'sha256-{digest}'"] in rules


def test_the_first_screen_names_the_script_of_its_user_and_no_model(fit):
    line = ["train.py", "--width", "{size}"]
    scripted = [{"identity": {"trainer": {"line": line}, "size": 8}}]
    assert (model_of(scripted), program_of(scripted)) == (None, "train.py")
    assert (model_of([]), program_of([])) == (None, None)
    assert program_of(measured_sweep.records()) is None
    parts = studied(fit, None, "train.py", {"Versions": "flops_fit 1, torch 2"}, "")
    assert (parts[0], parts[-1]) == ("train.py", "flops-fit 1")


IN_BROWSER = """<script>
const dimmed = () => document.querySelectorAll("svg .dim").length;
const seen = [dimmed()];
const button = document.querySelectorAll("#budgets button")[1];
button.click();
const clear = [...document.querySelectorAll("#figure-isoflop use[data-c]:not(.dim)")];
seen.push(dimmed(), new Set(clear.map(mark => mark.dataset.c)).size, button.ariaPressed);
document.dispatchEvent(new KeyboardEvent("keydown", {key: "Escape"}));
seen.push(dimmed());
const mark = document.querySelector("#figure-isoflop use[data-c]");
mark.dispatchEvent(new MouseEvent("click", {bubbles: true}));
seen.push(dimmed() > 0, mark.closest(":has(> title)").querySelector("title").textContent);
document.body.dataset.seen = JSON.stringify(seen);
</script>"""


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium on this machine")
def test_a_click_dims_the_other_budgets_and_a_mark_says_its_run(folder, tmp_path):
    """In a browser, with the page's own script; only its policy is taken out, to let ours in."""
    text = (folder / "report.html").read_text()
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    (tmp_path / "page.html").write_text(text.replace("</body>", f"{IN_BROWSER}</body>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    line = ["chromium", *options, "--dump-dom", f"file://{tmp_path}/page.html"]
    done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=600)
    (body,) = Page(done.stdout).all("body")
    before, clicked, budgets, pressed, escaped, again, title = json.loads(
        body["attrs"]["data-seen"]
    )
    assert (before, escaped) == (0, 0)
    assert clicked > 0
    assert (budgets, pressed, again) == (1, "true", True)
    assert "N " in title


def test_every_mark_of_a_budget_can_be_found_by_its_button(page):
    buttons = [float(b["attrs"]["data-budget"]) for b in page.all("button")]
    assert buttons == pytest.approx(measured_sweep.BUDGETS, rel=1e-6)
    assert "hidden" in page.all("div", id="budgets")[0]["attrs"]  # without the script
    for name in ("isoflop", "surface", "residuals", "loss_curves", "throughput"):
        (figure,) = page.all("figure", id=f"figure-{name}")
        marked = [e for e in page.all(within=figure) if "data-c" in e["attrs"]]
        assert len(marked) >= 24, name
        budgets = np.array([float(e["attrs"]["data-c"]) for e in marked])
        off = np.abs(np.log(budgets[:, None] / np.array(buttons))).min(axis=1)
        assert (off < 0.1).all(), name  # as the script has it


def test_marks_say_their_numbers_in_every_figure_and_runs_their_residual(page):
    for name in FIGURES:
        (figure,) = page.all("figure", id=f"figure-{name}")
        titles = [e["text"] for e in page.all("title", within=figure)]
        assert titles, name
        if name in ("isoflop", "surface", "residuals", "loss_curves", "throughput"):
            residuals = [text for text in titles if re.search(r"residual [+-]\d", text)]
            assert len(residuals) >= 24, name
            assert all("gpt-d_model" in text for text in residuals), name


def test_the_commands_on_a_page_repeat_its_fit_and_ask_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runs = pd.DataFrame(run_table(measured_sweep.records(), "counted"))
    runs.assign(corpus="a b").to_csv("my runs.csv", index=False)
    options = ["--bootstrap=20", "--level=0.8", "--method=isoflop", "--where=corpus=a b"]
    options += ["--params=params_total", "--loss-unit=bits per byte", "--report=out dir"]
    assert main(["fit", "--runs=my runs.csv", *options]) == 0
    before = Path("out dir/fit.json").read_bytes()
    (code,) = Page(Path("out dir/report.html").read_text()).all("code", id="commands")
    fit_line, ask_line = code["text"].splitlines()
    Path("out dir/fit.json").unlink()
    for line in (fit_line, ask_line):
        program, *words = shlex.split(line)
        assert program == "flops-fit"
        assert main(words) == 0
    assert Path("out dir/fit.json").read_bytes() == before
    assert "C = 8.1×10¹¹ FLOPs" in capsys.readouterr().out


def test_a_job_that_sees_copies_of_files_names_those_of_its_user():
    assert place(".snakemake/storage/fs/store/results/a/fit.json") == "results/a/fit.json"
    assert place("elsewhere/results/a/fit.json") == "elsewhere/results/a/fit.json"


def test_numbers_that_would_bloat_the_page_stay_in_their_file(folder, fit, tmp_path):
    shutil.copytree(folder / "plots", tmp_path / "plots")
    (tmp_path / "plots/regret.csv").write_text("kind,flops\n" + "curve,1e12\n" * 30_000)
    table = read_runs(folder / "results.csv")
    text = report_page(table, [], fit, tmp_path / "plots", BUDGETS, "large")
    (figure,) = Page(text).all("figure", id="figure-regret")
    assert not Page(text).all("a", within=figure)
    assert f"Numbers: {tmp_path}/plots/regret.csv" in figure["text"]
    assert len(text) < 3_000_000


def test_text_in_figures_is_text_in_fonts_of_known_widths(page):
    (figure,) = page.all("figure", id="figure-isoflop")
    texts = page.all("text", within=figure)
    assert "parameters N" in {e["text"].strip() for e in texts}
    fonts = {re.search(r"font(?:-family)?:[^;]*'DejaVu.*", t["attrs"]["style"])[0] for t in texts}
    assert all("Verdana, Geneva, sans-serif" in font for font in fonts)


def test_what_is_needed_to_repeat_it_is_on_the_page(page):
    (section,) = page.all("section", id="reproduce")
    for text in (
        "2.13.0+cpu",
        "1 x cpu (25 runs)",
        "flops_fit.examples.gpt:GPT",
        "3f2a9c1b",
        "sha256",
        "# the config with name: demo",
        "--flops 8.1e+11",
    ):
        assert text in section["text"], text


def test_a_page_written_twice_is_the_same(folder):
    command(
        "report",
        folder,
        "--plots",
        folder / "plots",
        "--plan",
        folder / "plan.json",
        "--name",
        "demo",
        "--out",
        folder / "again.html",
        "--budgets",
        *map(str, BUDGETS),
    )
    assert (folder / "again.html").read_bytes() == (folder / "report.html").read_bytes()


def test_text_from_runs_is_escaped(folder, fit):
    runs = [*measured_sweep.records(), measured_sweep.diverged()]
    runs[-1]["reason"] = "<script>alert(1)</script>"
    table = prepare_runs(pd.DataFrame(run_table(runs, "counted")))
    left_out = [LeftOut(runs[-1]["experiment_id"], 1, "diverged")]
    named = replace(fit, excluded=replace(fit.excluded, runs=left_out))
    text = report_page(table, runs, named, folder / "plots", BUDGETS, "<b>sweep</b>")
    assert text.count("<script") == 1  # of the page itself
    assert "<b>sweep" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_the_latex_tables_hold_the_same_cells_and_need_no_package(folder, fit):
    text = (folder / "table.tex").read_text()
    assert text.isascii()
    assert set(re.findall(r"\\(?:begin|end|[a-z]+rule)\b\{?\w*", text)) == {
        r"\begin{tabular",
        r"\end{tabular",
    }
    for part in text.split("\\end{tabular}")[:-1]:
        columns = len(re.search(r"\\begin\{tabular\}\{(\w+)\}", part)[1])
        rows = [line for line in part.splitlines() if line.endswith(r" \\")]
        assert {line.count(" & ") + 1 for line in rows} == {columns}
    assert text.count(r" \\") == 2 + len(fit.isoflop.budgets) + len(BUDGETS)
    answer = optimum_at(fit, BUDGETS[1])
    (row,) = [line for line in text.splitlines() if line.startswith(r"$2.43\times10^{12}$")]
    assert row.split(" & ")[1].startswith(count_text(answer.params))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8.1×10¹¹", r"$8.1\times10^{11}$"),
        ("10⁻³", "$10^{-3}$"),
        ("72.7k – 87.4k", "72.7k -- 87.4k"),
        (
            "50% of a_b & #1 {x} ~ ^ \\",
            r"50\% of a\_b \& \#1 \{x\} \textasciitilde{} "
            r"\textasciicircum{} \textbackslash{}",
        ),
    ],
)
def test_text_is_escaped_for_latex(text, expected):
    assert latex(text) == expected


def test_the_bibliography_begins_with_this_version_of_the_tool(page):
    (entry,) = page.all("code", id="bibtex")
    assert entry["text"].startswith("@software{flopsfit,")
    citation = yaml.safe_load((Path(__file__).parents[2] / "CITATION.cff").read_text())
    for value in (citation["title"], citation["version"], citation["authors"][0]["name"]):
        assert value in entry["text"]


@pytest.mark.parametrize("seed", range(5))
def test_one_hump_is_one_whatever_its_shape(seed):
    rng = np.random.default_rng(seed)
    for values in (rng.standard_normal(1000), np.exp(0.5 * rng.standard_normal(1000))):
        assert humps_of(values) is None
    assert humps_of(np.ones(1000)) is None


def test_two_humps_are_found_with_their_shares():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0.33, 0.01, 700), rng.normal(0.41, 0.01, 300)])
    humps = humps_of(values)
    assert (humps.lower, humps.upper) == pytest.approx((0.33, 0.41), abs=0.01)
    assert humps.share_lower == pytest.approx(0.7, abs=0.02)
    assert humps_of(np.concatenate([values[:50], values[-50:]])) is None  # too few to tell


def test_resamples_in_two_groups_are_said_with_the_size_of_each(fit):
    law = fit.laws["surface"].law
    values = np.repeat(law.values, 1000, axis=0)
    rng = np.random.default_rng(0)
    alpha = law.columns.index("alpha")
    values[:, alpha] += 0.005 * rng.standard_normal(1000)
    values[:300, alpha] += 0.1
    drawn = replace(fit.laws["surface"], draws=replace(law, values=values))
    text = humps_sentence(replace(fit, laws={**fit.laws, "surface": drawn}), BUDGETS[1])
    assert text.startswith("The resamples of α fall into two groups")
    assert "(70% of them)" in text
    assert humps_sentence(fit, BUDGETS[1]) == ""


def test_the_markdown_table_holds_minima_and_answers(folder, fit):
    lines = (folder / "table.md").read_text().splitlines()
    rows = [
        [c.strip() for c in line.strip("|").split("|")] for line in lines if line.startswith("| ")
    ]
    minima, members, answers = rows[1:5], rows[6:-4], rows[-3:]
    for row, entry in zip(minima, fit.isoflop.budgets, strict=True):
        expected = [
            flops_text(entry.flops),
            count_text(entry.params_opt),
            count_text(entry.tokens_opt),
        ]
        assert row[:3] == expected
        assert row[5] == "minimum, used"
    for row, budget in zip(answers, BUDGETS, strict=True):
        answer = predict(fit, budget)
        low, high = map(count_text, answer.ci["params"])
        assert row[0] == flops_text(budget)
        assert row[1] == f"{count_text(answer.params)} [{low} – {high}]"
        assert row[7].startswith(answer.verdict)
    assert [row[0] for row in members] == [m.name for m in fit.stack.members]
    assert len({line.count("|") for line in lines[-4:]}) == 1


def test_a_bare_table_without_records_plan_or_intervals_gives_a_page(tmp_path):
    runs = pd.DataFrame(run_table(measured_sweep.records(), "counted"))
    runs[["params", "tokens", "loss"]].to_csv(tmp_path / "runs.csv", index=False)
    fit = fit_runs(read_runs(tmp_path / "runs.csv"), bootstrap=0)
    write_json(tmp_path / "fit.json", fit.to_dict())
    command(
        "plot",
        tmp_path,
        "--out-dir",
        tmp_path / "plots",
        "--dpi",
        "50",
        runs="runs.csv",
        records=None,
    )
    command(
        "report",
        tmp_path,
        "--plots",
        tmp_path / "plots",
        "--name",
        "mine",
        "--out",
        tmp_path / "page.html",
        runs="runs.csv",
        records=None,
    )
    page = Page((tmp_path / "page.html").read_text())
    cards = page.all("article")
    largest = fit.data.largest_budget
    assert [float(c["attrs"]["data-flops"]) for c in cards] == [largest, 3 * largest, 10 * largest]
    assert "no intervals" in cards[0]["text"]
    assert not page.all("small", within=page.all("dd", data_name="params")[0])


def test_what_cannot_be_identified_is_headed_so(tmp_path):
    runs = pd.DataFrame(run_table(measured_sweep.records()[:6], "counted"))
    runs.to_csv(tmp_path / "runs.csv", index=False)
    fit = fit_runs(read_runs(tmp_path / "runs.csv"), bootstrap=0)
    assert fit.status == "not_identifiable"
    write_json(tmp_path / "fit.json", fit.to_dict())
    for verb, more in (
        ("plot", ["--out-dir", tmp_path / "plots"]),
        (
            "report",
            ["--plots", tmp_path / "plots", "--name", "few", "--out", tmp_path / "page.html"],
        ),
    ):
        command(verb, tmp_path, *more, runs="runs.csv", records=None)
    page = Page((tmp_path / "page.html").read_text())
    assert page.all("h1")[0]["text"] == f"{UNDETERMINED}."
    (card,) = page.all("article")  # one reason for all budgets, told once
    assert card["attrs"]["data-flops"].count(" ") == 2
    assert "not-identifiable" in card["attrs"]["class"]
    assert page.all("li", within=card)
    assert not page.all("dd", within=card)
    assert not page.all("code", within=card, data_name="config")
    drawn = {e["attrs"]["id"] for e in page.all("figure")}
    assert drawn == {"figure-isoflop", "figure-optima"}
    assert "dashed: extrapolated" not in page.all("section", id="why")[0]["text"]
    assert not page.all("table", id="law")
    assert "grows as" not in page.all("section", id="answer")[0]["text"]
    (section,) = page.all("section", id="sensitivity")
    assert "The fit is not identifiable" in section["text"]
    (section,) = page.all("section", id="range")
    assert "so there is no optimum" in section["text"]


def test_n_is_counted_as_in_the_fit(folder, tmp_path):
    table = read_runs(folder / "results.csv", "params_total")
    write_json(tmp_path / "fit.json", fit_runs(table, bootstrap=0).to_dict())
    for name in ("results.csv", "results.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    command("plot", tmp_path, "--out-dir", tmp_path / "plots", "--dpi", "50")
    drawn = pd.read_csv(tmp_path / "plots" / "isoflop.csv")
    runs = drawn[drawn["kind"] == "run"].set_index("experiment_id")["params"]
    expected = pd.read_csv(folder / "results.csv").set_index("experiment_id")["params_total"]
    assert (runs == expected[runs.index]).all()


def test_runs_that_are_not_behind_the_fit_are_refused(folder, tmp_path):
    lines = (folder / "results.csv").read_text().splitlines()
    (tmp_path / "results.csv").write_text("\n".join(lines[:-6]) + "\n")
    for name in ("results.json", "fit.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(FlopsFitError, match=r"results\.csv: not the runs of .*fit\.json.*24 runs"):
        command("plot", tmp_path, "--out-dir", tmp_path / "plots")
    assert not (tmp_path / "plots").exists()


@pytest.mark.parametrize(
    ("verb", "more", "message"),
    [
        ("plot", ["--out-dir", "x", "--dpi", "0"], "--dpi: 0; allowed: a positive number"),
        ("plot", ["--out-dir", "x", "--budgets", "-1"], "flops: -1.0; allowed: a positive"),
        (
            "report",
            ["--plots", "nowhere", "--name", "a", "--out", "x"],
            r"nowhere/isoflop.svg: this figure does not exist",
        ),
    ],
)
def test_bad_options_are_named(folder, verb, more, message):
    with pytest.raises(FlopsFitError, match=message):
        command(verb, folder, *more)


def test_a_file_that_is_no_fit_is_refused(folder, tmp_path):
    for name in ("results.csv", "results.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    write_json(tmp_path / "fit.json", [1, 2])
    with pytest.raises(FlopsFitError, match=r"fit\.json: not a fit"):
        command("plot", tmp_path, "--out-dir", tmp_path / "plots")


def test_a_broken_figure_is_named(tmp_path):
    (tmp_path / "isoflop.svg").write_text("<svg")
    with pytest.raises(FlopsFitError, match=r"isoflop\.svg: not an SVG file"):
        inline_svg(tmp_path / "isoflop.svg", "isoflop", "title")


@pytest.mark.parametrize("add", [plot.add_arguments, report.add_arguments])
def test_the_example_in_the_help_parses(add):
    parser = argparse.ArgumentParser()
    add(parser)
    example = parser.epilog.split("flops-fit", 1)[1].replace("\\\n", " ").split()[1:]
    assert parser.parse_args(example).runs == "results/demo/results.csv"


def test_a_table_offers_no_numbers_where_nothing_is_identified(fit):
    lost = replace(fit, status="not_identifiable")
    rows = markdown_table(lost, BUDGETS).split("## Answers")[1].splitlines()
    answers = [row.split("|")[2:-2] for row in rows if "not identifiable" in row]
    assert len(answers) == len(BUDGETS)
    assert {cell.strip() for row in answers for cell in row} == {"–"}


def test_the_summary_is_the_table_s_answers_alone(folder):
    answers = (folder / "table.md").read_text().split("## Answers\n\n")[1]
    assert (folder / "answer.txt").read_text() == answers
    assert answers.startswith("In brackets: ")


def test_the_table_without_minima_has_answers_only(fit):
    bare = replace(fit, isoflop=replace(fit.isoflop, budgets=[]))
    text = markdown_table(bare, BUDGETS)
    assert "Measured optima" not in text
    assert text.startswith("## Members of the stack")
    assert "## Answers" in text
