"""Deployments as JSON (Microsoft.Resources 2024-11-01)."""

from imgstore.domain.deployments import Deployment
from imgstore.wire.text import Json, instant


def deployment_json(deployment: Deployment, resource_id: str) -> Json:
    """A deployment, without its template: secrets may stand in that."""
    ended = deployment.finished_at or deployment.started_at
    properties = {
        "mode": "Incremental",
        "provisioningState": deployment.state.value,
        "parameters": dict(deployment.parameters),
        "outputs": dict(deployment.outputs),
        "outputResources": [{"id": each} for each in deployment.resources],
        "timestamp": instant(ended),
        "duration": f"PT{(ended - deployment.started_at).total_seconds():.3f}S",
        "correlationId": deployment.uid,
        "providers": [],
        "dependencies": [],
    }
    error = {} if deployment.error is None else {"error": deployment.error}
    return {
        "name": deployment.name,
        "id": resource_id,
        "type": "Microsoft.Resources/deployments",
        "properties": properties | error,
    }
