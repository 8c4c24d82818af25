"""A version's replicas are made and taken away until they are what its target regions ask for, as far as that goes now."""

from imgstore.domain.errors import ImgstoreError
from imgstore.domain.resources import ImageVersion
from imgstore.domain.views import DefinitionPath
from imgstore.operations.installation import Installation
from imgstore.operations.replication.copy import replicate
from imgstore.operations.replication.targets import tidy


def leave_to_workers(installation: Installation, version: ImageVersion) -> None:
    """Take away what is to go; `imgstore worker` makes the replicas that are missing, failed ones without a rest."""
    tidy(installation, version.uid)
    with installation.catalog.transaction() as facts:
        facts.replicas.retry_now(version.uid)


def converge(installation: Installation, line: DefinitionPath, version: ImageVersion) -> dict[str, ImgstoreError]:
    """Take away what is to go, make what is lacking, take away what that stands in for; again while slots come free.

    Returns:
        The errors of the replicas that failed, by replica uid.
    """
    tidy(installation, version.uid)
    while True:
        failed = replicate(installation, line, version)
        went = [removal for removal in tidy(installation, version.uid) if removal.waits_for is None]
        if failed or not went:
            return failed
