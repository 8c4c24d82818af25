"""Select the resources of another installation that come with the buckets of some regions. Pure functions.

The rights of the other installation stay outside: its tenants, principals, secrets, issuers and settings. A version keeps
the replicas and target regions of the adopted regions. Machines of other regions stay outside, because their disks do.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from imgstore.catalog.storage.rebuilt_rows import Rows
from imgstore.domain.errors import Conflict
from imgstore.domain.names import region_key
from imgstore.domain.resources import DiskKind, Slot
from imgstore.domain.states import ProvisioningState, ReplicaState, derive_provisioning_state
from imgstore.domain.storage.object_keys import MANIFESTS
from imgstore.domain.storage.revisions import OWNER_KINDS
from imgstore.operations.recovery.rebuild_plan import FoundResource, RebuildPlan
from imgstore.policy.revision_choice import OWNER
from imgstore.regions import ALL_ZONES, Policy, Regions

KINDS_ADOPTED: Final = (
    "groups", "pools", "galleries", "definitions", "scale-sets", "machines", "network-records", "deployments", "versions",
    "placements", "disks",
)  # fmt: skip
"""The kinds of resources that come with a bucket, in the order in which rows may be inserted."""
_COUNTED: Final = {
    "groups": "groups",
    "galleries": "galleries",
    "definitions": "definitions",
    "versions": "versions",
    "scale-sets": "scaleSets",
    "machines": "machines",
    "network-records": "networkRecords",
    "deployments": "deployments",
}
"""The names of counts by kind. Disks are counted by their kind of disk."""
_REGIONAL: Final = {"scale-sets": "scale_sets", "machines": "machines"}
"""The tables of resources in one region, by kind."""


def select_regions(plan: RebuildPlan, regions: Regions, names: Collection[str]) -> tuple[RebuildPlan, list[str]]:
    """Return the part of a plan that comes with the buckets of regions, and the uids of trimmed versions.

    Args:
        plan: all resources that the buckets describe.
        regions: the regions of this installation.
        names: the adopted regions.

    Raises:
        Conflict: regions.yaml does not define the zone of a slot.
    """
    slots = {uid: _place(slot, regions) for uid, slot in plan.slots.items() if slot.key.region in names}
    resources: dict[str, list[FoundResource]] = {kind: [] for kind in KINDS_ADOPTED}
    trimmed: list[str] = []
    for kind in KINDS_ADOPTED:
        for each in plan.resources[kind]:
            rows = _trim(kind, each.rows, slots, names)
            if rows is not None:
                resources[kind].append(replace(each, rows=rows))
                if kind == "versions" and len(rows["replicas"]) < len(each.rows["replicas"]):
                    trimmed.append(each.uid)
    versions = {each.uid for each in resources["versions"]}
    resources["placements"] = [each for each in resources["placements"] if each.uid in versions]
    # Counters of versions that other regions describe have no version here, and are not needed.
    counted = {OWNER, *KINDS_ADOPTED} - {"placements"}
    refused = [each for each in plan.refused if each.kind in counted]
    return replace(plan, resources=resources, slots=slots, refused=refused), trimmed


def count_unknown_owners(plan: RebuildPlan) -> int:
    """Count the versions and disks with manifests in the slots of a plan and without a resource in the plan."""
    known = {each.uid for kind in OWNER_KINDS for each in plan.resources[kind]}
    known |= {each.uid for each in plan.deleted}
    found = {key.removeprefix(MANIFESTS).partition("/")[0] for uid in plan.slots for key in plan.objects.get(uid, ())}
    return len(found - known)


def count_resources(resources: Mapping[str, Sequence[FoundResource]]) -> dict[str, int]:
    """Count resources by the kind for people: disks, snapshots and images apart. Parts of an image count once."""
    counts = Counter({name: len(resources.get(kind, ())) for kind, name in _COUNTED.items()})
    rows = [row for each in resources.get("disks", ()) for row in each.rows["disks"]]
    parts = {(row["kind"], row["group_uid"], row["name_key"]) for row in rows}
    counts.update({str(kind): 0 for kind in DiskKind})
    counts.update(str(kind) for kind, _, _ in parts)
    return dict(counts)


def name_resources(plan: RebuildPlan) -> dict[tuple[str, str], str]:
    """Return the name of each resource by kind and uid: "rg/gallery/definition/1.0.0"."""
    names: dict[tuple[str, str], str] = {}
    parents = {"group_uid": "groups", "gallery_uid": "galleries", "definition_uid": "definitions"}
    for kind in KINDS_ADOPTED:
        for each in plan.resources[kind]:
            row = next(iter(next(iter(each.rows.values()))), {})
            name = f"{row['major']}.{row['minor']}.{row['patch']}" if kind == "versions" else row.get("name", each.uid)
            above = [names.get((of, row[column]), "?") for column, of in parents.items() if column in row]
            names[kind, each.uid] = "/".join([*above, name])
    return names


def _place(slot: Slot, regions: Regions) -> Slot:
    """Return a slot with the bucket that regions.yaml names for the zone. The same bucket may have another name here."""
    region = regions.get(slot.key.region)
    if slot.zone == ALL_ZONES and region.policy is Policy.ZRS:
        return replace(slot, bucket=region.bucket)
    for zone in region.zones:
        if zone.name == slot.zone:
            return replace(slot, bucket=zone.bucket)
    raise Conflict(
        f"Region {region.name} has content in zones that {regions.path} does not define.",
        found=f"policy {region.policy}, zones {', '.join(zone.name for zone in region.zones)}",
        expected="policy ZRS with three zones" if slot.zone == ALL_ZONES else f"zone {slot.zone}",
        hint=f"define region {region.name} as in the regions.yaml of the other installation",
        target=region.name,
    )


def _trim(kind: str, rows: Rows, slots: Mapping[str, Slot], names: Collection[str]) -> Rows | None:
    """Return the rows of a resource that belong to the regions, or None for a resource that stays outside."""
    if kind == "pools":
        kept = [dict(row, bucket=slots[row["uid"]].bucket) for row in rows["slots"] if row["uid"] in slots]
        return rows | {"slots": kept}
    if kind in _REGIONAL:
        return rows if all(region_key(row["location"]) in names for row in rows[_REGIONAL[kind]]) else None
    if kind == "placements":
        return {"placements": [row for row in rows["placements"] if row["region"] in names]}
    if kind == "disks":
        return rows if all(row["slot_uid"] in slots for row in rows["disks"]) else None
    if kind != "versions":
        return rows
    trimmed = rows | {
        name: [row for row in rows[name] if row["slot_uid"] in slots] for name in ("replicas", "manifests")
    }
    versions = [_trim_version(row, trimmed["replicas"], slots, names) for row in rows["versions"]]
    # A replica outside of the target regions is about to be removed.
    return trimmed | {"versions": versions} if trimmed["replicas"] and versions[0]["target_regions"] else None


def _trim_version(
    row: Mapping[str, Any], replicas: Sequence[Mapping[str, Any]], slots: Mapping[str, Slot], names: Collection[str]
) -> dict[str, Any]:
    """Return the row of a version without other regions. The source region is a region with a complete replica."""
    targets = [each for each in row["target_regions"] if region_key(each["name"]) in names]
    location = row["location"]
    if region_key(location) not in names:
        complete = {slots[each["slot_uid"]].key.region for each in replicas if each["state"] is ReplicaState.COMPLETED}
        location = next(iter([each["name"] for each in targets if region_key(each["name"]) in complete] or names))
    state = row["provisioning_state"]
    if state is not ProvisioningState.DELETING and len(targets) < len(row["target_regions"]):
        creating = state is ProvisioningState.CREATING
        state = derive_provisioning_state([each["state"] for each in replicas], creating=creating)
    return dict(row, target_regions=targets, location=location, provisioning_state=state)
