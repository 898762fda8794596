"""The code of a step is what its rule runs: each room's modules make their own step stale, no earlier one."""

from pathlib import Path

import pytest

import flops_fit
from flops_fit.plugins.code import import_closure
from flops_fit.step_code import code_of_verb, data_files_of

PACKAGE = Path(flops_fit.__file__).parent
PATH = ("collect", "fit", "plot", "report")  # a step's output is the input of those behind it
ROOMS = {
    "collect": ["cli.collect", "store.collect"],
    "fit": ["cli.fit", "fit"],
    "plot": ["cli.plot", "cli.fitted", "plots"],
    "report": ["cli.report", "report"],
    "rate": [
        *("cli.rate", "fit.joint_rate", "fit.learning_rate", "fit.valley", "plots.learning_rate")
    ],
    "confirmed": ["cli.confirmed", "rounds.confirm"],
    "compare": ["cli.compare", "comparison", "plots.compare", "report.compare_page"],
    "plan": ["cli.plan", "plan", "plots.plan", "report.plan_page"],
}
# Run in a process of its own; the fingerprint of a plan holds their code.
PLANNER = {"plan.beyond", "plan.planner", "plan.rules", "plan.variants"}
ELSEWHERE = {  # modules of a room that belong to another step
    "fit": {
        "fit",
        "fit.joint_rate",
        "fit.learning_rate",
        "fit.prediction",
        "fit.record",
        "fit.sensitivity",
    }
    | {
        "fit.accuracy",
        "fit.limited_data",
        "fit.lowest",
        "fit.purchase",
        "fit.questions",
        "fit.remarks",
        "fit.serving",
        "fit.valley",
        "fit.verdict",
    },
    "plot": {"plots.learning_rate", "plots.plan", "plots.compare", "plots.transfer"},
    "report": {"report", "report.answer_lines", "report.plan_page", "report.compare_page"},
    "compare": {"comparison"},
    "plan": {"plan", "plan.amounts", "plan.local", "plan.transfer"} | PLANNER,
}


def modules(place: str) -> set[str]:
    """A module, or all modules of a room, its ``__init__`` under the room's name."""
    path = PACKAGE.joinpath(*place.split("."))
    if not path.is_dir():
        assert path.with_suffix(".py").exists(), place
        return {place}
    found = {f"{place}.{file.stem}" for file in path.glob("*.py")}
    return {name.removesuffix(".__init__") for name in found}


def code(verb: str) -> set[str]:
    return {name.removeprefix("flops_fit.") for name in code_of_verb(verb)}


def rows() -> list:
    return [*_rows()]


def _rows():
    for verb, places in ROOMS.items():
        for place in places:
            for name in sorted(modules(place) - ELSEWHERE.get(verb, set())):
                yield pytest.param(verb, name, id=f"{verb}-{name}")


@pytest.mark.parametrize(("verb", "module"), rows())
def test_a_module_is_in_the_code_of_its_step_and_of_none_before_it(verb, module):
    assert module in code(verb)
    earlier = PATH[: PATH.index(verb)] if verb in PATH else ()
    assert not [step for step in earlier if module in code(step)]


@pytest.mark.parametrize("verb", ROOMS)
def test_what_trains_and_keeps_runs_makes_no_step_stale(verb):
    rooms = ("training", "jobs", "store", "examples")
    inside = {name for name in code(verb) if name.split(".")[0] in rooms}
    assert inside == ({"store.collect"} if verb == "collect" else set())


def test_what_a_plan_warns_of_makes_only_the_plan_stale():
    assert {verb for verb in ROOMS if "plan.warnings" in code(verb)} == {"plan"}


def test_how_numbers_are_written_refits_nothing():
    assert not {"collect", "fit"} & {verb for verb in ROOMS if "notation" in code(verb)}


def test_templates_style_sheets_and_the_schema_count_where_they_are_used():
    of_the_fit = {"fit/prior.json", "fit/record.json"}
    pages = {
        "report/page.css",
        "report/page.html.j2",
        "report/page.js",
        "report/parts.html.j2",
        "report/plan.html.j2",
        "report/questions.html.j2",
        "report/compare.html.j2",
    }
    assert set(data_files_of(code_of_verb("report"))) == pages | of_the_fit
    assert "config/config.schema.yaml" in data_files_of(code_of_verb("plan"))
    assert set(data_files_of(code_of_verb("fit"))) == of_the_fit
    assert not data_files_of(code_of_verb("collect"))


def test_how_an_answer_is_judged_and_worded_refits_nothing():
    for module in ("fit.prediction", "fit.remarks", "fit.verdict"):
        assert module not in code("fit")
    assert {"fit.prediction", "fit.verdict"} <= code("report") & code("plot")


def test_the_code_of_the_planner_is_part_of_the_fingerprint_of_a_plan():
    planner = {n.removeprefix("flops_fit.") for n in import_closure("flops_fit.plan.planner")}
    assert {"plan.planner"} | planner >= PLANNER


def test_nothing_is_imported_through_the_lazy_doors_which_no_closure_can_follow():
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name != "examples" and path.name != "__init__.py":
            text = path.read_text()
            assert "from flops_fit.fit import" not in text, path
            assert "from flops_fit import find_optimal" not in text, path
