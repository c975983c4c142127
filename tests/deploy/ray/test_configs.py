"""The files say what Serve and our code understand."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.ray.imports import app, schema
from tests.deploy_files.reading import settings_of

ROOT = Path(__file__).parents[3]
CONFIGS = sorted((ROOT / "deploy/ray").glob("*.yaml"))


def application(path: Path) -> Any:
    [found] = schema.ServeDeploySchema.model_validate(yaml.safe_load(path.read_text())).applications
    return found


def test_there_are_configs() -> None:
    assert [path.name for path in CONFIGS] == ["cluster.yaml", "one-machine.yaml"]


@pytest.mark.schema
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_serve_takes_it(path: Path) -> None:
    config = application(path)
    assert config.import_path == "deploy.ray.app:app"
    for deployment in config.deployments:
        assert set(deployment.model_dump(exclude_unset=True)) <= set(schema.DeploymentSchema.model_fields)
    assert {deployment.name for deployment in config.deployments} == {"Gateway", "Worker"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_our_code_takes_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = application(path)
    settings = settings_of(config.runtime_env["env_vars"])
    monkeypatch.setattr(app, "load_settings", lambda _config: settings)
    gateways = app.app(app.Arguments(**config.args))
    worker, gateway = deployments(gateways)
    assert gateway.name == "Gateway"
    assert worker.name == "Worker"
    # The worker's own queue refuses before Serve has requests wait.
    assert worker.max_ongoing_requests > settings.worker.max_batch + settings.worker.max_queue
    assert worker._deployment_config.graceful_shutdown_timeout_s > app.WORKER_DRAIN_SECONDS
    drain = app.GATEWAY_DRAIN_SECONDS + settings.gateway.drain_delay_seconds
    assert gateway._deployment_config.graceful_shutdown_timeout_s > drain


def deployments(gateways: Any) -> tuple[Any, Any]:
    """Of the workers, and of the gateways before them."""
    gateway = gateways._bound_deployment
    [workers] = [one for one in gateway.init_args if hasattr(one, "_bound_deployment")]
    return workers._bound_deployment, gateway
