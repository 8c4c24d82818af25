"""Concurrent completion of replicas, on a database with concurrent transactions."""

from pathlib import Path
from threading import Thread

from imgstore.domain.resources import Replica
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.operations.installation import Installation
from imgstore.operations.slots.completion import update_version_state
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import create_sample_gallery, open_home, publish, show


def complete(installation: Installation, replica: Replica, meanwhile: Thread | None = None) -> None:
    with installation.catalog.transaction() as transaction:
        transaction.replicas.move(replica.uid, ReplicaState.COMPLETED)
        update_version_state(transaction, transaction.versions.by_uid(replica.version_uid))
        if meanwhile is not None:
            meanwhile.start()
            meanwhile.join(1)  # it ends here only if it did not wait for this transaction


def test_later_of_two_concurrent_completions_sees_both(postgresql: str, tmp_path: Path) -> None:
    source = make_raw(tmp_path / "disk.raw", seed=1, virtual_bytes=8 << 20, content_bytes=1 << 20)
    with open_home(tmp_path / "home", database=postgresql) as installation:
        create_sample_gallery(installation)
        one, other = publish(installation, source, targets=["southcentralus", "eastus"]).replicas
        with installation.catalog.transaction() as transaction:
            for replica in (one, other):
                transaction.replicas.move(replica.uid, ReplicaState.DEGRADED, error="for the test")
                transaction.replicas.move(replica.uid, ReplicaState.REPLICATING)
            update_version_state(transaction, transaction.versions.by_uid(one.version_uid))
        second = Thread(target=complete, args=(installation, other))
        complete(installation, one, meanwhile=second)
        second.join()
        assert show(installation).version.provisioning_state is ProvisioningState.SUCCEEDED
