"""Read the rows of the catalog that describe the health of an installation."""

from imgstore.domain.diagnosis import CatalogFacts, SlotScrubFacts
from imgstore.domain.host.os_errors import describe
from imgstore.domain.identity.access import Principal
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance.gc import COLLECTION
from imgstore.operations.maintenance.worker import is_alive
from imgstore.operations.recovery.recovery_cover import find_recovery_cover


def read_catalog_facts(installation: Installation, principal: Principal) -> CatalogFacts:
    """Read the facts in one transaction, without a change. The rows of dead workers stay.

    Raises:
        StoreError: the database does not answer.
    """
    catalog = installation.catalog
    cover = find_recovery_cover(installation, principal)
    with catalog.reading() as transaction:
        own, workers = transaction.installation.get(), transaction.workers.list()
        last = {each.slot_uid: each for each in transaction.slot_scrubs.list()}
        unsealed = transaction.ledger_log.count_unsealed()
        slots = sorted(transaction.slots.list_all(), key=lambda slot: str(slot.key))
        return CatalogFacts(
            place=catalog.place,
            now=transaction.now(),
            created_at=own.created_at,
            revision=transaction.revision(),
            code_revision=catalog.code_revision,
            write_fault=None if catalog.write_fault is None else describe(catalog.write_fault),
            outdated=own.outdated,
            recovery_cover=cover,
            workers=workers,
            living=frozenset(each.uid for each in workers if is_alive(installation, transaction, each)),
            tasks=transaction.maintenance_tasks.list(),
            collected_at=transaction.activity.find_last_success(COLLECTION),
            scrubs=[
                SlotScrubFacts(
                    key=slot.key, last=last.get(slot.uid), lost_objects=len(transaction.lost_objects.list(slot.uid))
                )
                for slot in slots
            ],
            missed_objects=transaction.zone_gaps.count_by_zone(),
            replicas=transaction.replicas.count_by_region(),
            without_source=transaction.queue.count_without_source(),
            works=transaction.works.list_open(),
            abandoned_sets=transaction.scale_sets.list_abandoned(),
            used_zones=frozenset((zone.region, zone.zone) for zone in transaction.zones.list()),
            revision_marks=transaction.revision_marks.count(),
            unsealed_entries=unsealed.entries,
            unsealed_since=unsealed.oldest,
        )
