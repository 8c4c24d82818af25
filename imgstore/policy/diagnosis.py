"""Judge the health of an installation: from facts to findings with the next steps. No function reads or asks anything."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Final

from imgstore.domain.diagnosis import (
    CacheFacts,
    CatalogFacts,
    CertificateFacts,
    FileFacts,
    Finding,
    HomeFacts,
    Level,
    SpaceFacts,
    UploadFacts,
)
from imgstore.domain.errors import ImgstoreError
from imgstore.domain.recovery import RecoveryCover
from imgstore.domain.settings.maintenance import MaintenanceKind, MaintenanceSettings
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.text.byte_counts import format_bytes
from imgstore.domain.text.durations import format_duration, format_time
from imgstore.regions import Policy, Region, ZoneReport

CERTIFICATE_DAYS_MIN: Final = 30
"""A certificate that ends sooner is a warning."""
_LATE_FACTOR: Final = 2
"""A task that did not run for so many intervals is a warning."""
_SLACK: Final = timedelta(hours=1)
"""The least time by which a task may be late, because a worker may have stopped for an upgrade."""
_ABANDONED: Final = timedelta(days=1)
"""A work or an upload without a sign of life for this time is a warning."""
_OTHERS: Final = 0o077
_WORKER: Final = "imgstore worker"


def judge_error(error: ImgstoreError, check: str = "installation") -> Finding:
    """Judge a part that cannot be checked, or an installation that cannot be opened."""
    found = f"{error.message} Found: {error.found}" if error.found else error.message
    return Finding(check=check, level=Level.ERROR, found=" ".join(found.split()), next_step=error.hint)


def judge_recovery_file(cover: RecoveryCover) -> Finding:
    """Judge the recovery file. `imgstore regions check` warns with the same finding (invariant K3)."""
    level, step = Level.WARNING, "imgstore catalog recovery-file PATH"
    if cover.written_at is None:
        found = "no recovery file was written. Without the file a lost catalog cannot be rebuilt from the buckets"
    elif cover.missing:
        step += " --overwrite"
        found = (
            f"keys newer than the recovery file of {cover.written_at:%Y-%m-%d}: {len(cover.missing)}, the first is "
            f"{cover.missing[0]}"
        )
    else:
        return Finding(check="recovery-file", found=f"written on {cover.written_at:%Y-%m-%d}, with all keys")
    return Finding(check="recovery-file", level=level, found=found, next_step=step)


def judge_zones(
    regions: Iterable[Region],
    reports: Mapping[tuple[str, str], ZoneReport | None],
    *,
    used: Collection[tuple[str, str]],
    seconds_max: float,
) -> Iterator[Finding]:
    """Judge the zones of regions.

    A single zone of three without an answer costs redundancy, and two zones stop writes.

    Args:
        regions: the regions.
        reports: the check of each zone. None for a check that did not end in time.
        used: the zones that the catalog has ever used.
        seconds_max: the time limit of a check.
    """
    for region in regions:
        names = [(region.name, zone.name) for zone in region.zones]
        wrong = sum((report := reports[name]) is None or report.problem is not None for name in names)
        is_redundant = region.policy is Policy.ZRS and wrong < len(names) - 1
        for name in names:
            level = Level.WARNING if is_redundant or name not in used else Level.ERROR
            yield from _judge_zone(name, reports[name], level, is_used=name in used, seconds_max=seconds_max)


def _judge_zone(
    name: tuple[str, str], report: ZoneReport | None, level: Level, *, is_used: bool, seconds_max: float
) -> Iterator[Finding]:
    subject, check = "/".join(name), f"imgstore regions check {name[0]}"
    if report is None:
        found = f"no answer within {seconds_max:g} s"
        yield Finding(check="zone", level=level, subject=subject, found=found, next_step=check)
    elif report.problem is not None:
        is_unprepared = report.reachable and not report.marked and not is_used
        step = f"imgstore regions init {name[0]}" if is_unprepared else check
        yield Finding(check="zone", level=level, subject=subject, found=report.problem, next_step=step)
    else:
        answer = "" if report.answer_seconds is None else f" in {report.answer_seconds * 1000:.1f} ms"
        state = f"answers{answer}" if report.marked else "not used yet"
        yield Finding(check="zone", subject=subject, found=f"{state}: {report.store}")
        for warning in () if report.access is None else report.access.warnings:
            yield Finding(check="zone", level=Level.WARNING, subject=subject, found=warning, next_step=check)


def judge_catalog(facts: CatalogFacts, settings: MaintenanceSettings) -> Iterator[Finding]:
    """Judge the rows of the catalog."""
    yield judge_recovery_file(facts.recovery_cover)
    yield _judge_schema(facts)
    yield _judge_age(facts)
    yield from _judge_workers(facts)
    yield from _judge_replicas(facts)
    yield from _judge_repairs(facts)
    yield _judge_scrubs(facts, settings)
    yield _judge_collection(facts, settings)
    yield from _judge_tasks(facts, settings)
    yield _judge_works(facts)
    yield from _judge_scale_sets(facts)
    yield _judge_revisions(facts)
    yield _judge_seals(facts, settings)


def _judge_schema(facts: CatalogFacts) -> Finding:
    if facts.write_fault is not None:
        return Finding(
            check="catalog",
            level=Level.WARNING,
            subject=facts.place,
            found=f"the catalog can be read only: {facts.write_fault}",
            next_step="run the command as the owner of the home, or mount the file system for writing",
        )
    if facts.revision != facts.code_revision:
        return Finding(
            check="catalog",
            level=Level.WARNING,
            subject=facts.place,
            found=f"schema {facts.revision} is newer than the code of this machine (schema {facts.code_revision})",
            next_step="upgrade imgstore on this machine",
        )
    return Finding(check="catalog", subject=facts.place, found=f"schema {facts.revision}, all migrations are applied")


def _judge_age(facts: CatalogFacts) -> Finding:
    if facts.outdated is None:
        return Finding(check="catalog-age", found="not older than the buckets that answer")
    return Finding(
        check="catalog-age",
        level=Level.ERROR,
        found=f"the catalog is older than its buckets, so nothing is deleted: {facts.outdated}",
        next_step="imgstore catalog adopt",
    )


def _judge_workers(facts: CatalogFacts) -> Iterator[Finding]:
    if not facts.living:
        yield Finding(
            check="workers",
            level=Level.WARNING,
            found="no worker is alive, so replicas, repairs and deletions wait",
            next_step=_WORKER,
        )
    for worker in facts.workers:
        host, _, pid, *_ = [*worker.holder.split("/"), "", ""]
        subject = f"{host} pid {pid}"
        if worker.uid not in facts.living:
            found = f"ended without a report, last seen at {format_time(worker.seen_at)}"
            step = f"{_WORKER} on {host}; `imgstore worker list` removes the entry"
            yield Finding(check="workers", level=Level.WARNING, subject=subject, found=found, next_step=step)
        elif worker.code_revision != facts.code_revision:
            found = f"alive, with code for schema {worker.code_revision or 'before 0033'}, not {facts.code_revision}"
            step = "use the same release of imgstore on all machines"
            yield Finding(check="workers", level=Level.WARNING, subject=subject, found=found, next_step=step)
        else:
            yield Finding(check="workers", subject=subject, found=f"alive, with {worker.works} works")


def _judge_replicas(facts: CatalogFacts) -> Iterator[Finding]:
    steps = {
        ReplicaState.FAILED: f"{_WORKER}, which tries again, or repeat `imgstore sig image-version create`",
        ReplicaState.DEGRADED: "imgstore scrub --region ",
    }
    is_fine = True
    for (region, state), count in sorted(facts.replicas.items()):
        if state in steps:
            is_fine = False
            step = steps[state] + (region if state is ReplicaState.DEGRADED else "")
            found = f"{count} replicas are {state}"
            yield Finding(check="replicas", level=Level.WARNING, subject=region, found=found, next_step=step)
    if facts.without_source:
        is_fine = False
        yield Finding(
            check="replicas",
            level=Level.WARNING,
            found=f"{facts.without_source} versions have no complete replica",
            next_step="repeat the `imgstore sig image-version create` of each version",
        )
    if is_fine:
        complete = sum(count for (_, state), count in facts.replicas.items() if state is ReplicaState.COMPLETED)
        yield Finding(check="replicas", found=f"{complete} complete, and none failed or degraded")


def _judge_repairs(facts: CatalogFacts) -> Iterator[Finding]:
    for (region, zone), count in sorted(facts.missed_objects.items()):
        found, step = f"{count} objects await a repair of the zone", f"{_WORKER}, or imgstore scrub --region {region}"
        subject = f"{region}/{zone}"
        yield Finding(check="repairs", level=Level.WARNING, subject=subject, found=found, next_step=step)
    for scrub in facts.scrubs:
        if scrub.lost_objects:
            yield Finding(
                check="repairs",
                level=Level.ERROR,
                subject=str(scrub.key),
                found=f"{scrub.lost_objects} objects are lost, and no copy could repair the objects",
                next_step="imgstore scrub --status -o table",
            )


def _judge_scrubs(facts: CatalogFacts, settings: MaintenanceSettings) -> Finding:
    if not facts.scrubs:
        return Finding(check="scrub", found="no slot has content yet")
    never = [each for each in facts.scrubs if each.last is None]
    oldest = min((each.last.ended_at for each in facts.scrubs if each.last is not None), default=facts.created_at)
    since = facts.created_at if never else oldest
    found = f"{len(never)} of {len(facts.scrubs)} slots were never scrubbed" if never else ""
    found = found or f"all slots were scrubbed in the last {format_duration(facts.now - oldest)}"
    limit = _find_limit(settings.interval_seconds(MaintenanceKind.SCRUB))
    return _judge_interval("scrub", facts, since, limit, found, step="imgstore scrub")


def _judge_collection(facts: CatalogFacts, settings: MaintenanceSettings) -> Finding:
    if facts.collected_at is None:
        found = "garbage was never collected"
    else:
        found = f"garbage was collected {format_duration(facts.now - facts.collected_at)} ago"
    limit = _find_limit(settings.interval_seconds(MaintenanceKind.GC))
    return _judge_interval("gc", facts, facts.collected_at or facts.created_at, limit, found, step="imgstore gc")


def _find_limit(interval_seconds: float) -> timedelta | None:
    """Return the age at which a task is late. None for a task that is switched off."""
    interval = timedelta(seconds=interval_seconds)
    return max(interval * _LATE_FACTOR, interval + _SLACK) if interval else None


def _judge_interval(
    check: str, facts: CatalogFacts, since: datetime, limit: timedelta | None, found: str, *, step: str
) -> Finding:
    if limit is None or facts.now - since <= limit:
        return Finding(check=check, found=found)
    late = f"{found}, and workers should do this every {format_duration(limit / _LATE_FACTOR)}"
    return Finding(check=check, level=Level.WARNING, found=late, next_step=f"{_WORKER}, or {step}")


def _judge_tasks(facts: CatalogFacts, settings: MaintenanceSettings) -> Iterator[Finding]:
    """Judge the maintenance tasks of workers by their last outcome and by their age."""
    by_age = {MaintenanceKind.SCRUB, MaintenanceKind.GC}  # Commands do these tasks, too.
    is_fine = True
    for task in facts.tasks:
        kind = next((each for each in MaintenanceKind if each == task.name.partition("/")[0]), None)
        if kind is None:
            continue  # A newer release has more kinds.
        limit = None if kind in by_age else _find_limit(settings.interval_seconds(kind))
        if task.has_failed:
            found = f"the last run {task.outcome}"
        elif limit is not None and facts.now - task.done_at > limit:
            found = f"the last run was {format_duration(facts.now - task.done_at)} ago"
        else:
            continue
        is_fine = False
        yield Finding(
            check="maintenance",
            level=Level.WARNING,
            subject=task.name,
            found=found,
            next_step=f"{_WORKER}, which runs the task again",
        )
    if is_fine:
        yield Finding(check="maintenance", found=f"{len(facts.tasks)} tasks, and none failed or late")


def _judge_works(facts: CatalogFacts) -> Finding:
    since = {work.uid: work.lease_expires_at or work.opened_at for work in facts.works}
    idle = {uid: facts.now - at for uid, at in since.items() if at < facts.now}
    oldest = max(idle.values(), default=timedelta(0))
    if oldest <= _ABANDONED:
        return Finding(check="works", found=f"{len(since)} open, {len(idle)} of them without a process")
    return Finding(
        check="works",
        level=Level.WARNING,
        found=f"{len(idle)} unfinished works have no process, the oldest for {format_duration(oldest)}",
        next_step=f"{_WORKER}, or repeat the interrupted command; `imgstore gc` ends works after 7 days",
    )


def _judge_scale_sets(facts: CatalogFacts) -> Iterator[Finding]:
    """Judge the scale sets whose change was interrupted. Workers resume deletions only."""
    for each in facts.abandoned_sets:
        state, options = each.provisioning_state, f"-g {each.group} -n {each.name}"
        if state is ProvisioningState.DELETING:
            found, step = "the deletion was interrupted", f"{_WORKER}, or imgstore vmss delete {options}"
        elif state is ProvisioningState.CREATING:
            found = f"the creation with {each.capacity} instances was interrupted"
            step = f"repeat `imgstore vmss create`, or imgstore vmss delete {options}"
        else:
            found = f"the change from {each.former_capacity} to {each.capacity} instances was interrupted"
            step = f"imgstore vmss scale {options} --new-capacity {each.capacity}"
        subject = f"{each.group}/{each.name}"
        yield Finding(check="scale-sets", level=Level.WARNING, subject=subject, found=found, next_step=step)
    if not facts.abandoned_sets:
        yield Finding(check="scale-sets", found="no interrupted change")


def _judge_revisions(facts: CatalogFacts) -> Finding:
    if facts.revision_marks and not facts.living:
        return Finding(
            check="revisions",
            level=Level.WARNING,
            found=f"{facts.revision_marks} changes are not in each bucket yet, and no worker writes the changes",
            next_step=_WORKER,
        )
    waiting = f"{facts.revision_marks} changes wait for a worker" if facts.revision_marks else "each bucket is current"
    return Finding(check="revisions", found=waiting)


def _judge_seals(facts: CatalogFacts, settings: MaintenanceSettings) -> Finding:
    """Judge the entries of the ledger that nothing protects yet (invariant M21)."""
    if not facts.unsealed_entries:
        return Finding(check="ledger", found="all entries are sealed")
    limit = _find_limit(settings.interval_seconds(MaintenanceKind.LEDGER))
    since = facts.unsealed_since or facts.created_at
    found = f"{facts.unsealed_entries} entries wait to be sealed, the oldest since {format_time(since)}"
    if limit is not None and facts.now - since > limit:
        return Finding(check="ledger", level=Level.WARNING, found=found, next_step=f"{_WORKER}, or imgstore bill seal")
    sealer = "`imgstore bill seal` seals" if limit is None or not facts.living else "a worker seals"
    return Finding(check="ledger", found=f"{found}: {sealer} the entries")


def judge_home(facts: HomeFacts) -> Iterator[Finding]:
    """Judge the files of the home."""
    yield from _judge_files(facts.files)
    for certificate in facts.certificates:
        yield _judge_certificate(certificate, facts.now)
    for space in facts.spaces:
        yield _judge_space(space)
    yield _judge_uploads(facts.uploads, facts.now)
    yield _judge_cache(facts.cache)


def _judge_files(files: Iterable[FileFacts]) -> Iterator[Finding]:
    is_fine = True
    for file in files:
        subject = str(file.path)
        if file.mode & _OTHERS:
            is_fine = False
            what = (
                "a private key that other users of this machine may read or change" if file.is_key else "open to others"
            )
            level = Level.ERROR if file.is_key else Level.WARNING
            found, step = f"mode {file.mode:04o}: {what}", f"chmod go-rwx {subject}"
            yield Finding(check="file-rights", level=level, subject=subject, found=found, next_step=step)
        elif not file.is_own:
            is_fine = False
            found, step = "belongs to another user", f"chown $(id -un) {subject}, or run imgstore as the owner"
            yield Finding(check="file-rights", level=Level.WARNING, subject=subject, found=found, next_step=step)
    if is_fine:
        yield Finding(check="file-rights", found="the home and the private keys are closed to other users")


def _judge_certificate(certificate: CertificateFacts, now: datetime) -> Finding:
    subject = str(certificate.path)
    step = "imgstore serve --dev-tls, which renews the file" if certificate.is_own else "renew the certificate"
    if certificate.ends_at is None:
        found = f"the file cannot be read: {certificate.problem}"
        return Finding(check="certificate", level=Level.ERROR, subject=subject, found=found, next_step=step)
    left, ends = certificate.ends_at - now, format_time(certificate.ends_at)
    if left <= timedelta(0):
        found, level = f"has expired: notAfter {ends}", Level.ERROR
    elif left < timedelta(days=CERTIFICATE_DAYS_MIN):
        found, level = f"ends in {format_duration(left)}: notAfter {ends}", Level.WARNING
    else:
        return Finding(check="certificate", subject=subject, found=f"valid until {ends}")
    return Finding(check="certificate", level=level, subject=subject, found=found, next_step=step)


def _judge_space(space: SpaceFacts) -> Finding:
    subject, found = str(space.place), f"{format_bytes(space.free_bytes)} free"
    if space.free_bytes >= 2 * space.reserve_bytes:
        return Finding(check="disk-space", subject=subject, found=found)
    is_full = space.free_bytes < space.reserve_bytes
    effect = "writes are refused" if is_full else "writes are refused soon"
    return Finding(
        check="disk-space",
        level=Level.ERROR if is_full else Level.WARNING,
        subject=subject,
        found=f"{found}, and {format_bytes(space.reserve_bytes)} must stay free (free_bytes_min): {effect}",
        next_step="delete unneeded images and run `imgstore gc`, or free space in the file system",
    )


def _judge_cache(cache: CacheFacts) -> Finding:
    subject = str(cache.folder)
    if cache.problem is not None:
        return Finding(
            check="cache",
            level=Level.WARNING,
            subject=subject,
            found=f"the segment cache is not used: {cache.problem}",
            next_step="correct the folder, or name another folder with IMGSTORE_CACHE_DIR",
        )
    if not cache.bytes_max:
        return Finding(check="cache", subject=subject, found="the segment cache is switched off")
    used, limit = format_bytes(cache.used_bytes), format_bytes(cache.bytes_max)
    return Finding(check="cache", subject=subject, found=f"{cache.segments} segments, {used} of at most {limit}")


def _judge_uploads(uploads: Collection[UploadFacts], now: datetime) -> Finding:
    stored = format_bytes(sum(each.stored_bytes for each in uploads))
    oldest = max((now - each.used_at for each in uploads), default=timedelta(0))
    if oldest <= _ABANDONED:
        return Finding(check="uploads", found=f"{len(uploads)} unfinished, with {stored}")
    return Finding(
        check="uploads",
        level=Level.WARNING,
        found=f"{len(uploads)} unfinished uploads take {stored}, the oldest unused for {format_duration(oldest)}",
        next_step="finish the uploads, or find the disks with `imgstore disk list` and delete them",
    )
