"""Deployments and their operations as JSON (Microsoft.Resources 2024-11-01)."""

import hashlib

from imgstore.domain.deployments import Deployment
from imgstore.wire.json_text import Json, instant


def deployment_json(deployment: Deployment, resource_id: str) -> Json:
    """Return a deployment without the template, because a template may contain secrets."""
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


FAILED_RESOURCE = "FailedResource"
"""The type of an error's ``additionalInfo`` with the id of the resource that failed."""


def add_failed_resource(error: Json, resource_id: str | None) -> Json:
    """Add the failed resource to the error of a deployment."""
    if resource_id is None:
        return error
    return {**error, "additionalInfo": [{"type": FAILED_RESOURCE, "info": {"id": resource_id}}]}


def operations_json(deployment: Deployment, resource_id: str) -> list[Json]:
    """Return the operations of a deployment: the created resources, then the failed resources."""
    made = [_operation(deployment, resource_id, each, None) for each in deployment.resources]
    error = deployment.error or {}
    failed = [each["info"]["id"] for each in error.get("additionalInfo", []) if each["type"] == FAILED_RESOURCE]
    return made + [_operation(deployment, resource_id, each, error) for each in failed]


def _operation(deployment: Deployment, resource_id: str, target: str, error: Json) -> Json:
    """Return one operation. The times are those of the deployment, because times of single resources are not stored."""
    uid = hashlib.sha256(f"{deployment.uid}/{target.lower()}".encode()).hexdigest()[:16].upper()
    names = target.partition("/providers/")[2].split("/")
    properties = {
        "provisioningOperation": "Create",
        "provisioningState": "Succeeded" if error is None else "Failed",
        "timestamp": instant(deployment.finished_at or deployment.started_at),
        "trackingId": deployment.uid,
        "serviceRequestId": deployment.uid,
        "statusCode": "OK" if error is None else "BadRequest",
        "targetResource": {
            "id": target,
            "resourceType": "/".join((names[0], *names[1::2])),
            "resourceName": "/".join(names[2::2]),
        },
    }
    message = {} if error is None else {"statusMessage": {"status": "Failed", "error": error}}
    return {"id": f"{resource_id}/operations/{uid}", "operationId": uid, "properties": properties | message}
