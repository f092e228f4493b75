"""The manifests, rendered, and held against the program that they run."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml  # type: ignore[import-untyped]  # comes with the development tools
from celery.bin.celery import celery as celery_command
from click import Context

from worker import settings as configuration
from worker.bootsteps import STOP_SECONDS
from worker.cli import app as cli
from worker.settings import api
from worker.settings.environment import Environment

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy/kubernetes"
KINDS_WITH_PODS = ("Deployment", "StatefulSet", "Job")


@pytest.fixture(scope="module")
def manifests() -> list[dict[str, Any]]:
    """What `kubectl kustomize` makes of the example, with its component."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run(
        ["kubectl", "kustomize", str(FOLDER / "example")], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def pods(manifests: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Each pod's name, specification and only container."""
    for each in manifests:
        if each["kind"] in KINDS_WITH_PODS:
            spec = each["spec"]["template"]["spec"]
            (container,) = spec["containers"]
            yield each["metadata"]["name"].removeprefix("token-vault-"), spec, container


def test_every_pod_is_contained(manifests: list[dict[str, Any]]) -> None:
    """Each runs as an unprivileged user on a read-only root, without rights, in bounds, and is probed."""
    found = {name: (spec, container) for name, spec, container in pods(manifests)}
    assert set(found) == {"migrate", "worker-renewal", "worker-interactive", "worker-sync", "beat", "api"}
    for name, (spec, container) in found.items():
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["automountServiceAccountToken"] is False, name
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        assert container["resources"]["limits"]["memory"], name
        assert name == "migrate" or {"livenessProbe", "readinessProbe", "startupProbe"} <= set(container), (
            name
        )
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        claimed = {"spool"} if name in ("worker-renewal", "worker-interactive") else set()
        assert mounted == {volume["name"] for volume in spec["volumes"]} | claimed, name


def test_the_commands_are_those_of_the_program(manifests: list[dict[str, Any]]) -> None:
    """Celery and `token-vault` take the command lines, and each queue is worked on by one kind of worker."""
    queues: list[str] = []
    for name, _, container in pods(manifests):
        program, *arguments = container["command"]
        if program == "celery":
            assert arguments[:2] == ["-A", "worker.app"]
            found = celery_command.get_command(Context(celery_command), arguments[2])
            assert found is not None
            found.make_parser(Context(found)).parse_args(list(arguments[3:]))
            queues += arguments[arguments.index("-Q") + 1].split(",") if "-Q" in arguments else []
        else:
            assert program == "token-vault", name
            command = typer.main.get_group(cli).commands[arguments[0]]
            options = {option for parameter in command.params for option in parameter.opts}
            assert {each for each in arguments if each.startswith("--")} <= options, name
    application = (ROOT / "worker/app.py").read_text(encoding="utf-8")
    declared = re.search(r"for name in \((.*)\)\]", application)
    assert declared
    assert sorted(queues) == sorted(re.findall(r'"(\w+)"', declared[1]))


def test_variables_and_secrets_are_known(manifests: list[dict[str, Any]]) -> None:
    """Each variable is read, each secret's file is mounted for whom it is named, and migrate alone is the owner."""
    known = {name.upper() for name in Environment.model_fields}
    known |= {f"{name}_FILE" for name in configuration.SECRET_NAMES}
    made = (ROOT / "docker/make-secrets").read_text(encoding="utf-8")
    for name, spec, container in pods(manifests):
        variables = {each["name"]: each["value"] for each in container.get("env", ())}
        assert set(variables) <= known, name
        (secrets,) = [volume["secret"] for volume in spec["volumes"] if volume["name"] == "secrets"]
        items = {item["key"] for item in secrets["items"]}
        named = {
            value.removeprefix("/run/secrets/") for key, value in variables.items() if key.endswith("_FILE")
        }
        assert named == items, name
        assert all(item in made for item in items - {"auth0_client_secret"}), name
        assert ("database_url" in items) is (name == "migrate")
    for each in manifests:
        if each["kind"] == "ConfigMap" and "environment" in each["metadata"]["name"]:
            assert set(each["data"]) <= known
            assert each["data"]["AUTH0_PLAN"] == ""  # nobody knows it but the operator


def test_a_stopping_pod_may_finish(manifests: list[dict[str, Any]]) -> None:
    """The grace is longer than what each process waits for at its end."""
    for name, spec, container in pods(manifests):
        if name.startswith("worker"):
            assert spec["terminationGracePeriodSeconds"] > STOP_SECONDS
        if name == "api":
            pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
            assert spec["terminationGracePeriodSeconds"] > api.STOP_SECONDS + pause


def test_ports_lead_to_what_listens(manifests: list[dict[str, Any]]) -> None:
    """The settings' ports are those that probes, services and policies name."""
    metrics = configuration.load(FOLDER / "base/token-vault.toml").metrics
    assert metrics.host == "0.0.0.0"
    for name, _, container in pods(manifests):
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", ())}
        wanted = {"http": api.DEFAULT_PORT} if name == "api" else {"metrics": metrics.port}
        assert name == "migrate" or ports == wanted
    text = (FOLDER / "base/network.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"port: (\d+)", text)) == {"53", "443", "5432", "6379", "8700", str(metrics.port)}


def test_selectors_find_pods(manifests: list[dict[str, Any]]) -> None:
    """Each budget, service and policy selects a pod that there is; the autoscaler names a workload and a metric."""
    labels = [
        each["spec"]["template"]["metadata"]["labels"]
        for each in manifests
        if each["kind"] in KINDS_WITH_PODS
    ]
    for each in manifests:
        spec = each.get("spec", {})
        selector = spec.get("podSelector") or spec.get("selector")
        if selector is None or each["kind"] in KINDS_WITH_PODS:
            continue
        wanted = selector if each["kind"] == "Service" else selector.get("matchLabels", {})
        assert any(wanted.items() <= of_pod.items() for of_pod in labels), each["metadata"]["name"]
        for rule in selector.get("matchExpressions", ()):
            processes = {of_pod["token-vault/process"] for of_pod in labels}
            assert rule["key"] == "token-vault/process"
            assert set(rule.get("values", ())) <= processes
    scaler = yaml.safe_load((FOLDER / "autoscaling/renewal.yaml").read_text(encoding="utf-8"))["spec"]
    assert scaler["scaleTargetRef"]["name"] in {each["metadata"]["name"] for each in manifests}
    page = (ROOT / "docs/kubernetes.md").read_text(encoding="utf-8")
    assert scaler["metrics"][0]["external"]["metric"]["name"] in page
