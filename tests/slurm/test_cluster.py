"""The test SLURM keeps away from machines where a cluster could be meant."""

import os

import cluster
import pytest


@pytest.fixture
def root(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(cluster.psutil, "process_iter", lambda *_: iter(()))  # no SLURM at work
    for name in ("SLURM_CONF", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", ["slurm.conf", "gres.conf", "plugstack.conf.d/site.conf"])
def test_a_file_of_somebody_else_is_refused_and_left_alone(root, tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("ClusterName=precious\n")
    with pytest.raises(cluster.Refusal, match=r"leaving this cluster alone"):
        cluster.refuse_on_a_cluster(tmp_path)
    assert path.read_text() == "ClusterName=precious\n"


def test_a_link_that_leads_nowhere_is_somebody_elses(root, tmp_path):
    (tmp_path / "slurm.conf").symlink_to("/nowhere/slurm.conf")
    with pytest.raises(cluster.Refusal, match=r"slurm\.conf was not written"):
        cluster.refuse_on_a_cluster(tmp_path)


def test_files_of_an_earlier_test_are_no_reason_to_refuse(root, tmp_path):
    (tmp_path / "slurm.conf").write_text(cluster.MARK + "ClusterName=mine\n")
    cluster.refuse_on_a_cluster(tmp_path)


def test_one_session_at_a_time_has_the_slurm(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "LOCK", tmp_path / "lock")
    cluster.refuse_beside_another()
    with pytest.raises(cluster.Refusal, match="another session"):
        cluster.refuse_beside_another()


def test_a_configuration_elsewhere_is_refused(root, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", "/site/slurm.conf")
    with pytest.raises(cluster.Refusal, match="SLURM_CONF"):
        cluster.refuse_on_a_cluster(tmp_path)


def test_nobody_but_root_is_served(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(cluster.Refusal, match="root"):
        cluster.refuse_on_a_cluster(tmp_path)
