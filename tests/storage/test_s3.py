"""The same sweep through an object store: a server of S3 on this machine."""

import json

import pytest
from place import RUNS, Place, counted, missing

pytestmark = [
    pytest.mark.storage,
    pytest.mark.skipif(bool(missing()), reason=f"needs {', '.join(missing())}: make test-storage"),
]


@pytest.fixture(scope="module")
def s3():
    """The variables with which the server is reached, and a client of it."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url, key, secret = f"http://{host}:{port}", "test", "secret"
    variables = {
        "SNAKEMAKE_STORAGE_S3_ENDPOINT_URL": url,
        "SNAKEMAKE_STORAGE_S3_ACCESS_KEY": key,
        "SNAKEMAKE_STORAGE_S3_SECRET_KEY": secret,
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    names = {"aws_access_key_id": key, "aws_secret_access_key": secret}
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **names)
    client.create_bucket(Bucket="sweeps")
    yield variables, client
    server.stop()


def place(root, name, variables) -> Place:
    store = ["--default-storage-provider", "s3", "--default-storage-prefix", "s3://sweeps/mine"]
    return Place(root, name, store, "s3://sweeps/checkpoints", **variables)


def keys(client) -> list[str]:
    listed = client.list_objects_v2(Bucket="sweeps").get("Contents", [])
    return [item["Key"] for item in listed]


def test_a_sweep_through_a_bucket_ends_in_an_answer_that_another_folder_has(tmp_path, s3):
    variables, client = s3
    first = place(tmp_path, "first", {**variables, "PREEMPTED_ONCE": str(tmp_path / "preempted")})
    output = first.run_elsewhere("--retries", "1")
    assert counted(output)[-1] == RUNS
    answer = client.get_object(Bucket="sweeps", Key="mine/results/smoke/answer.txt")
    text = answer["Body"].read().decode()
    assert text in output
    results = [key for key in keys(client) if key.endswith("/result.json")]
    assert len(results) == RUNS
    left = [key for key in keys(client) if key.startswith("checkpoints/")]
    assert len(left) == RUNS
    assert {key.rpartition("/")[2] for key in left} == {"record.json"}
    records = [
        json.loads(client.get_object(Bucket="sweeps", Key=key)["Body"].read()) for key in results
    ]
    assert sorted(record["resumed_at_step"] for record in records) == [0] * (RUNS - 1) + [30]

    other = place(tmp_path, "other", variables)
    output = other.run("--cores", "1")
    assert "Nothing to be done" in output
    assert text in output
    assert counted(output) == [RUNS]
    assert len([*other.results.glob("runs/*/record.json")]) == RUNS
