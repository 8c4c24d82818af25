"""Delete the versions that a store with versioning keeps of deleted and replaced objects (invariant G17).

A delete in such a store leaves the content as an old version, which the owner of the bucket pays for. Garbage collection
therefore lists the versions of each zone and deletes old versions by id. A delete by id never removes a present object.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from imgstore.catalog import Transaction
from imgstore.domain.errors import StoreDenied, StoreError
from imgstore.domain.resources import Slot
from imgstore.domain.storage import object_keys
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance.gc_survey import find_named_segments
from imgstore.operations.stores.catalog_checks import refuse_if_outdated
from imgstore.policy.gc_plan import SlotReport
from imgstore.policy.old_versions import VersionSweep, choose_markers, choose_removable, is_own_key, slot_prefix
from imgstore.regions import ALL_ZONES, VersionedZone
from imgstore.stores.interface import DELETE_KEYS_MAX
from imgstore.stores.object_versions import KeyVersions

_NULL: Final = "versioning is suspended, and a new object would have the same version id"
_NEEDED: Final = "the catalog names the object, and the version differs from the present object"


def sweep_old_versions(
    installation: Installation, reports: Sequence[SlotReport], *, remove: bool
) -> list[VersionSweep]:
    """Count the old versions in all zones with versioning, and delete the versions if `remove`.

    Zones without versioning cost one request each.

    Args:
        installation: the installation.
        reports: the reports of all slots. Versions in a slot that could not be read stay.
        remove: delete the versions. Otherwise change nothing.
    """
    with installation.catalog.reading() as transaction:
        keeps_unknown = transaction.installation.get().keeps_unknown
    return [
        _Sweep(installation, zone, reports, keeps_unknown=keeps_unknown).run(remove=remove)
        for zone in installation.locator.find_versioned_zones()
    ]


class _Sweep:
    """The sweep of one zone."""

    def __init__(
        self, installation: Installation, zone: VersionedZone, reports: Iterable[SlotReport], *, keeps_unknown: bool
    ) -> None:
        self._installation = installation
        self._zone = zone
        self._reports = {
            report.slot.prefix: report
            for report in reports
            if report.slot.key.region == zone.region and report.slot.zone in {zone.zone, ALL_ZONES}
        }
        self._keeps_unknown = keeps_unknown
        self._found = VersionSweep(
            region=zone.region, zone=zone.zone, store=zone.versions.name, versioning=zone.versioning
        )

    def run(self, *, remove: bool) -> VersionSweep:
        """Sweep the zone. An error of the store is the problem of the result."""
        own = (each for each in self._zone.versions.list_versions() if is_own_key(each.key) and each.old)
        try:
            while batch := list(islice(own, DELETE_KEYS_MAX)):
                self._sweep_batch(batch, remove=remove)
        except StoreDenied as error:
            self._found.problem = f"{error.message} ({error.found})"
            self._keep_all()
        except StoreError as error:
            self._found.problem = str(error)
            self._keep_all()
        return self._found

    def _keep_all(self) -> None:
        """Count the deleted objects of this collection as kept, because their versions are not known."""
        for prefix, report in self._reports.items():
            for key, stored_bytes in report.collected.items():
                self._found.kept_keys[prefix + key] = stored_bytes

    def _sweep_batch(self, batch: Sequence[KeyVersions], *, remove: bool) -> None:
        self._installation.keeper.check_cancelled()
        named = self._find_named(batch, remove=remove)
        state = self._zone.versioning.state
        chosen = {each.key: choose_removable(each, state, is_named=each.key in named) for each in batch}
        by_key = {each.key: each for each in batch}
        for each in batch:
            versions, markers = chosen[each.key]
            reason = _NEEDED if each.key in named else _NULL
            for version in each.old:
                if version not in versions and version not in markers:
                    self._found.add_kept(each, version, reason)
        wanted = [version for versions, _ in chosen.values() for version in versions]
        kept = dict(self._zone.versions.delete_versions(wanted)) if remove else {}
        late = [marker for key, (_, markers) in chosen.items() for marker in choose_markers(by_key[key], markers, kept)]
        kept |= self._zone.versions.delete_versions(late) if remove else {}
        skipped = {marker for _, markers in chosen.values() for marker in markers} - set(late)
        for version in (*wanted, *late, *skipped):
            if version in kept or version in skipped:
                self._found.add_kept(by_key[version.key], version, kept.get(version, ""))
            else:
                self._found.add_removed(version)

    def _find_named(self, batch: Sequence[KeyVersions], *, remove: bool) -> frozenset[str]:
        """Return the keys that the catalog or an unknown manifest names, or that may be named."""
        keys: dict[str, list[str]] = {}
        named = set[str]()
        for each in batch:
            prefix = slot_prefix(each.key)
            if prefix is not None:
                keys.setdefault(prefix, []).append(each.key.removeprefix(prefix))
        with self._installation.catalog.reading() as transaction:
            if remove:
                refuse_if_outdated(transaction)
            for prefix, below in keys.items():
                report = self._reports.get(prefix)
                if report is None:  # A slot without a row: the pool was removed, or belongs to a newer catalog.
                    found = below if self._keeps_unknown else []
                elif report.survey is None:
                    found = below
                else:
                    found = [*_named_in_slot(transaction, report.slot, below), *self._unknown_in_slot(report, below)]
                named.update(prefix + key for key in found)
        return frozenset(named)

    @staticmethod
    def _unknown_in_slot(report: SlotReport, below: Iterable[str]) -> Iterator[str]:
        assert report.survey is not None, "the slot was read"
        protected = {object_keys.segment_key(name) for name in report.survey.protected}
        return (key for key in below if key in protected or key in report.survey.unknown_manifests)


def _named_in_slot(transaction: Transaction, slot: Slot, below: Sequence[str]) -> Iterator[str]:
    segments = {object_keys.segment_name(key): key for key in below if object_keys.is_segment_key(key)}
    if segments:
        yield from (segments[name] for name in find_named_segments(transaction, slot, list(segments)))
    if any(key.startswith(object_keys.MANIFESTS) for key in below):
        rows = transaction.manifests.in_slot(slot.uid, complete_only=False)
        known = {row.body_key for row in rows} | {object_keys.manifest_key(row.owner_uid, row.disk) for row in rows}
        yield from (key for key in below if key in known)
