"""Deployments of templates: requests and results."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class DeploymentState(StrEnum):
    """The state of a deployment, in Azure's words."""

    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELED = "Canceled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """The last deployment of a name. The template is not stored, because a template may contain secrets."""

    uid: str
    group_uid: str
    name: str
    state: DeploymentState
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """The parameters without secret values."""
    outputs: Mapping[str, Any] = field(default_factory=dict)
    resources: tuple[str, ...] = ()
    """The ids of the created resources."""
    error: Mapping[str, Any] | None = None
    """ARM's error of a failed deployment."""
    started_at: datetime
    finished_at: datetime | None = None
