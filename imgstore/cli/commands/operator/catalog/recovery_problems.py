"""The problems of a rebuild or an adoption, as warnings for people."""

from collections.abc import Iterator

from imgstore.domain.recovery import AdoptionReport, BucketAdoptionReport, LedgerRecovery, RebuildReport
from imgstore.wire.json_text import instant


def describe_problems(report: RebuildReport | AdoptionReport | BucketAdoptionReport) -> Iterator[str]:
    """Yield a line for each kind of problem: the number, and the first case. The JSON answer lists all cases."""
    if report.refused:
        first = report.refused[0]
        yield f"objects that cannot be used: {len(report.refused)}, the first is {first.key} in {first.place}: {first.reason}"
    if report.refused_resources:
        first_resource = report.refused_resources[0]
        yield (
            f"resources without a usable object: {len(report.refused_resources)}, the first is {first_resource.kind} "
            f"{first_resource.uid}: {first_resource.reason}"
        )
    if report.missing_manifests:
        missing = report.missing_manifests[0]
        copies = sum(each.has_copy for each in report.missing_manifests)
        yield (
            f"missing manifests: {len(report.missing_manifests)}, and `imgstore scrub` restores {copies} of them from a "
            f"copy. The first is {missing.kind} {missing.owner} in {missing.slot}"
        )
    if report.new_pool_keys:
        yield (
            f"fingerprint keys that no recovery file contains: {len(report.new_pool_keys)}. New keys replace the missing "
            "keys, and the next publications compute fingerprints again"
        )
    if report.skipped_zones:
        yield f"zones that were not read: {', '.join(report.skipped_zones)}"
    if isinstance(report, RebuildReport):
        yield from _describe_ledger(report.ledger)


def _describe_ledger(ledger: LedgerRecovery) -> Iterator[str]:
    until = instant(ledger.lost_until)
    if ledger.lost_since is None:
        yield f"the buckets have no checkpoint of the ledger, so all charges before {until} are lost"
    else:
        yield f"charges from {instant(ledger.lost_since)} to {until}, after the newest checkpoint of the ledger, are lost"
    if ledger.breaks:
        numbers = ", ".join(map(str, ledger.breaks))
        yield f"the checkpoints of the ledger before {numbers} were not found, so their charges are lost"
