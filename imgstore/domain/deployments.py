"""Deployments of templates: what was asked for, and what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class DeploymentState(StrEnum):
    """How far a deployment is, in Azure's words."""

    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELED = "Canceled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One deployment, the last of its name. The template itself is not kept: secrets may stand in it."""

    uid: str
    group_uid: str
    name: str
    state: DeploymentState
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """As they are shown: those that are secret are not."""
    outputs: Mapping[str, Any] = field(default_factory=dict)
    resources: tuple[str, ...] = ()
    """The ids of what was made."""
    error: Mapping[str, Any] | None = None
    """ARM's error, of one that failed."""
    started_at: datetime
    finished_at: datetime | None = None
