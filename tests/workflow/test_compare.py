"""A comparison of two sweeps: one plan of all jobs, runs shared, and its files at the end."""

import json

import pytest
import yaml
from project import Project, label

COMPARED = ("compare", "compare_isoflop")


def compare(project: Project, **more) -> None:
    """Write compare.yaml: the trained sweep against one that shares half of its cells, in fast.yaml."""
    project.configure("fast.yaml", name="fast", seeds=[0, 1])
    arms = {"reference": "sweep.yaml", "candidate": "fast.yaml"}
    config = {"name": "both", "compare": arms, **more}
    (project.work / "compare.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.slow
def test_a_dry_run_lists_the_jobs_of_all_arms_and_trains_no_run_again(project):
    compare(project)
    done = project.dry_run(config="compare.yaml")
    rules = [rule for rule, _ in done.jobs]
    assert rules.count("compare_arms") == rules.count("fit_law") == rules.count("plan_sweep") == 1
    assert {cell.rsplit("-", 1)[1] for cell in done.trained} == {"s1"}
    assert len(done.trained) == 6
    assert not (project.results / "fast").exists()


def test_the_resources_of_a_run_are_those_of_its_sweep(project):
    project.configure("fast.yaml", name="fast", seeds=[1], resources={"threads": 2})
    compared = {"reference": "sweep.yaml", "candidate": "fast.yaml"}
    (project.work / "compare.yaml").write_text(
        yaml.safe_dump({"name": "both", "compare": compared})
    )
    done = project.dry_run("results/fast/results.csv", config="compare.yaml")
    assert done.output.count("    threads: 2\n") == 6


@pytest.mark.slow
def test_a_comparison_trains_its_arms_and_answers(project):
    compare(project, answer={"budgets": [2e5]})
    trained = {label(name) for name in project.ids()}
    done = project.run(config="compare.yaml")
    assert not trained & done.trained
    assert {label(name) for name in project.ids()} == trained | done.trained
    compared = json.loads((project.results / "both/compare.json").read_text())
    assert (compared["reference"]["name"], compared["candidate"]["name"]) == ("own", "fast")
    assert [row["flops"] for row in compared["rows"]] == [2e5]
    assert compared["differences"] == []
    for name in COMPARED:
        assert (project.results / f"both/{name}.svg").stat().st_size > 0
    assert (project.results / "both/compare.txt").read_text() in done.output
    for arm in ("own", "fast"):
        assert (project.results / arm / "report.html").exists()
    assert not project.run(config="compare.yaml").jobs
