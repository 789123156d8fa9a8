"""Settings come from the environment, and what is wrong with it is said a line each."""

from __future__ import annotations

import json

import pytest

from teacher_operator.api.pod_settings import PodSettings
from teacher_operator.api.settings import PREFIX, Allowed, Settings, SettingsError

LEAST = {"TEACHER_OPERATOR_IMAGE": "op:1", "TEACHER_TRAINER_IMAGE": "tr:1"}


def test_two_images_are_enough() -> None:
    settings = Settings.from_environment(LEAST)
    assert (settings.operator_image, settings.trainer_image) == ("op:1", "tr:1")
    assert settings.namespaces == settings.allowed_endpoints == ()
    assert settings.leader_election is False


def test_every_setting_is_read_from_its_variable() -> None:
    given = {
        "operator_image": ("op:2", "op:2"),
        "trainer_image": ("tr:2", "tr:2"),
        "image_pull_policy": ("Always", "Always"),
        "namespaces": ("vision, audio,", ("vision", "audio")),
        "pod_env": ('{"HTTPS_PROXY": "http://proxy:3128"}', {"HTTPS_PROXY": "http://proxy:3128"}),
        "pods": (
            '{"labels": {"cost-center": "7"}, "schedulerName": "volcano"}',
            PodSettings(labels={"cost-center": "7"}, scheduler_name="volcano").model_dump(),
        ),
        "allowed": (
            '{"images": ["registry.test/*"], "volumes": []}',
            Allowed(images=("registry.test/*",), volumes=()).model_dump(),
        ),
        "inspect_resources": ('{"limits": {"memory": "2Gi"}}', {"limits": {"memory": "2Gi"}}),
        "trainer_resources": ("{}", {}),
        "scratch_size": ("50Gi", "50Gi"),
        "ca_bundle_config_map": ("authorities", "authorities"),
        "ca_bundle_key": ("bundle.pem", "bundle.pem"),
        "allowed_endpoints": ("*.example.com,minio.storage", ("*.example.com", "minio.storage")),
        "run_network_policy": ("true", True),
        "run_egress": ('[{"ports": [{"port": 443}]}]', ({"ports": [{"port": 443}]},)),
        "log_format": ("text", "text"),
        "log_level": ("DEBUG", "DEBUG"),
        "port": ("9090", 9090),
        "metrics_authentication": ("true", True),
        "metrics_tls": ("/etc/teacher-tls", "/etc/teacher-tls"),
        "metrics_label": ("example.com/cost-center", "example.com/cost-center"),
        "workers": ("4", 4),
        "progress_seconds": ("2.5", 2.5),
        "gang_timeout_seconds": ("90", 90.0),
        "resync_seconds": ("60", 60.0),
        "leader_election": ("true", True),
        "lease_name": ("lease", "lease"),
        "pod_name": ("op-0", "op-0"),
        "pod_namespace": ("ops", "ops"),
    }
    assert set(given) == set(Settings.model_fields)
    settings = Settings.from_environment({PREFIX + name.upper(): text for name, (text, _) in given.items()})
    assert settings.model_dump() == {name: value for name, (_, value) in given.items()}


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented(name: str) -> None:
    assert Settings.model_fields[name].description


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"TEACHER_PORT": "http"}, "TEACHER_PORT: "),
        ({"TEACHER_PORT": "0"}, "TEACHER_PORT: "),
        ({"TEACHER_WORKERS": "0"}, "TEACHER_WORKERS: "),
        ({"TEACHER_PROGRESS_SECONDS": "0"}, "TEACHER_PROGRESS_SECONDS: "),
        ({"TEACHER_LOG_LEVEL": "LOUD"}, "TEACHER_LOG_LEVEL: "),
        ({"TEACHER_IMAGE_PULL_POLICY": "Sometimes"}, "TEACHER_IMAGE_PULL_POLICY: "),
        ({"TEACHER_POD_ENV": "A=1"}, "TEACHER_POD_ENV: "),
        ({"TEACHER_POD_ENV": '{"A": 1}'}, "TEACHER_POD_ENV: "),
        ({"TEACHER_POD_ENV": '{"A": {"secretKeyRef": {"name": "keys"}}}'}, "TEACHER_POD_ENV: "),
        ({"TEACHER_PODS": '{"labels": {"finetune.dev/run": "a"}}'}, "TEACHER_PODS: labels: "),
        (
            {"TEACHER_PODS": '{"volumes": [{"name": "a", "hostPath": {"path": "/"}}]}'},
            "TEACHER_PODS: volumes.0.hostPath: ",
        ),
        ({"TEACHER_PODS": '{"env": [{"name": "A", "value": "1"}]}'}, "TEACHER_PODS: "),
        ({"TEACHER_PODS": '{"image": "other"}'}, "TEACHER_PODS: "),
        ({"TEACHER_ALLOWED": '{"image": ["*"]}'}, "TEACHER_ALLOWED: image: "),
        ({"TEACHER_TRAINER_RESOURCES": "[]"}, "TEACHER_TRAINER_RESOURCES: "),
        ({"TEACHER_SCRATCH_SIZE": "much"}, "TEACHER_SCRATCH_SIZE: "),
        ({"TEACHER_METRICS_LABEL": "cost center"}, "TEACHER_METRICS_LABEL: "),
        ({"TEACHER_ALLOWED": '{"serviceAccount": ["a"]}'}, "TEACHER_ALLOWED: "),
        ({"TEACHER_ALLOWED": '{"scratch": "1Gi"}'}, "TEACHER_ALLOWED: "),
        ({"TEACHER_ALLOWED": '{"scratch": "lots"}'}, "TEACHER_ALLOWED: "),
        ({"TEACHER_RUN_EGRESS": "443"}, "TEACHER_RUN_EGRESS: "),
        ({"TEACHER_LEADER_ELECTION": "perhaps"}, "TEACHER_LEADER_ELECTION: "),
        ({"TEACHER_OPERATOR_IMAGE": ""}, "TEACHER_OPERATOR_IMAGE: "),
    ],
)
def test_a_wrong_variable_is_named(variables: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.from_environment(LEAST | variables)
    assert str(raised.value).startswith(said)
    assert "\n" not in str(raised.value)


def test_every_fault_has_a_line() -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.from_environment({"TEACHER_PORT": "http", "TEACHER_TRAINER_IMAGE": "tr:1"})
    lines = str(raised.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["TEACHER_OPERATOR_IMAGE", "TEACHER_PORT"]


def test_other_variables_are_passed_over() -> None:
    Settings.from_environment(LEAST | {"TEACHER_CACHE": "/scratch", "PORT": "x", "PATH": "/bin"})


def test_defaults_can_be_written_as_variables() -> None:
    settings = Settings.from_environment(LEAST)
    variables = {}
    for name, value in settings.model_dump(mode="json").items():
        text = ",".join(value) if isinstance(value, list) else json.dumps(value) if isinstance(value, dict) else value
        variables[PREFIX + name.upper()] = str(text)
    assert Settings.from_environment(variables) == settings
