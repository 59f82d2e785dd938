"""The launch files are well formed, and the Kubernetes one fits the API it names."""

from __future__ import annotations

import subprocess

import pytest
import yaml

from tests.conftest import REPOSITORY

SCRIPTS = sorted(
    path for path in (REPOSITORY / "launch").iterdir() if path.suffix in (".sh", ".sbatch")
)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(script):
    subprocess.run(["bash", "-n", script], check=True)


@pytest.fixture(scope="module")
def documents() -> dict[str, dict]:
    text = (REPOSITORY / "launch/kubernetes.yaml").read_text()
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


# Field names of trainer.kubeflow.org/v1alpha1 (Trainer 2.0 to 2.3) and of the JobSet, Job and Pod
# templates inside it, as far as the file uses them: a misspelt or misplaced key is not in here.
POD = {
    "restartPolicy": str,
    "terminationGracePeriodSeconds": int,
    "volumes": [{"name": str, "persistentVolumeClaim": {"claimName": str}, "emptyDir": dict}],
    "containers": [
        {
            "name": str,
            "image": str,
            "workingDir": str,
            "volumeMounts": [{"name": str, "mountPath": str}],
        }
    ],
}
FIELDS = {
    "TrainingRuntime": {
        "mlPolicy": {"numNodes": int, "torch": {}},
        "template": {
            "spec": {
                "failurePolicy": {
                    "maxRestarts": int,
                    "rules": [{"name": str, "action": str, "onJobFailureReasons": [str]}],
                },
                "replicatedJobs": [
                    {
                        "name": str,
                        "template": {
                            "metadata": dict,
                            "spec": {
                                "backoffLimit": int,
                                "podFailurePolicy": {
                                    "rules": [{"action": str, "onPodConditions": [{"type": str}]}]
                                },
                                "template": {"spec": POD},
                            },
                        },
                    }
                ],
            }
        },
    },
    "TrainJob": {
        "runtimeRef": {"apiGroup": str, "kind": str, "name": str},
        "trainer": {
            "image": str,
            "numNodes": int,
            "numProcPerNode": int,
            "env": [{"name": str, "value": str}],
            "command": [str],
            "args": [str],
            "resourcesPerNode": dict,
        },
    },
}


def fits(value: object, fields: object, place: str) -> None:
    """Every key of `value` is one of `fields`, with a value of that form."""
    if isinstance(fields, dict):
        assert isinstance(value, dict), place
        for key, inner in value.items():
            assert key in fields, f"{place}.{key}: no such field"
            fits(inner, fields[key], f"{place}.{key}")
    elif isinstance(fields, list):
        assert isinstance(value, list), place
        for number, inner in enumerate(value):
            fits(inner, fields[0], f"{place}[{number}]")
    else:
        assert type(value) is fields, place


@pytest.mark.parametrize("kind", sorted(FIELDS))
def test_kubernetes_fields_are_those_of_the_api(documents, kind):
    document = documents[kind]
    assert document["apiVersion"] == "trainer.kubeflow.org/v1alpha1"
    fits(document["spec"], FIELDS[kind], kind)


def test_the_job_finds_its_runtime_and_has_time_to_save(documents):
    runtime, job = documents["TrainingRuntime"], documents["TrainJob"]
    assert job["spec"]["runtimeRef"]["kind"] == "TrainingRuntime"
    assert job["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]
    (node,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    labels = node["template"]["metadata"]["labels"]
    assert labels["trainer.kubeflow.org/trainjob-ancestor-step"] == "trainer"
    pod = node["template"]["spec"]["template"]["spec"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == volumes
    (patience,) = (
        int(argument.split("=")[1])
        for argument in job["spec"]["trainer"]["args"]
        if argument.startswith("--shutdown_timeout=")
    )
    assert patience < pod["terminationGracePeriodSeconds"]
    # A pod failure policy needs pods that are never restarted in place.
    assert pod["restartPolicy"] == "Never"


def test_numbers_of_kubernetes_resources_are_quoted(documents):
    resources = documents["TrainJob"]["spec"]["trainer"]["resourcesPerNode"]
    for kind in ("requests", "limits"):
        assert all(type(value) is str for value in resources[kind].values())
    assert resources["requests"]["nvidia.com/gpu"] == resources["limits"]["nvidia.com/gpu"]
    assert resources["limits"]["nvidia.com/gpu"] == str(
        documents["TrainJob"]["spec"]["trainer"]["numProcPerNode"]
    )
