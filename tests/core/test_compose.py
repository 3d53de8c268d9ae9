from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from tests.core.conftest import ROOT

SECRETS = {"POSTGRES_PASSWORD": "p1", "VALKEY_PASSWORD": "v1", "RUNYARD_SECRET_KEY": "s1"}


def compose(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", "compose", *arguments],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.fixture(autouse=True)
def client() -> None:
    if shutil.which("docker") is None or compose("version").returncode:
        pytest.skip("docker compose is not installed")


def test_compose_file_is_accepted_and_tells_each_process_the_same_servers():
    accepted = compose("config", "--format", "json", **SECRETS)

    assert accepted.returncode == 0, accepted.stderr
    services = json.loads(accepted.stdout)["services"]
    told = {
        name: (service["environment"]["DATABASE_URL"], service["environment"]["BROKER_URL"])
        for name, service in services.items()
        if name not in {"postgres", "valkey"}
    }
    assert told == dict.fromkeys(
        ["migrate", "web", "worker", "beat"],
        ("postgres://runyard:p1@postgres:5432/runyard", "redis://:v1@valkey:6379/0"),
    )
    assert services["worker"]["deploy"]["replicas"] == 2


def test_compose_file_asks_for_secrets_that_are_not_set():
    refused = compose("config", **{**SECRETS, "VALKEY_PASSWORD": ""})

    assert refused.returncode != 0
    assert "VALKEY_PASSWORD" in refused.stderr
