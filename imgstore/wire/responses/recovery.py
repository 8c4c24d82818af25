"""Reports about recovery files and the recovery of a catalog as JSON."""

from imgstore.domain.recovery import RecoveryFileReport
from imgstore.wire.json_text import Json, instant


def recovery_file_json(report: RecoveryFileReport) -> Json:
    """Return a written or checked recovery file as JSON, without any key."""
    return {
        "path": str(report.path),
        "fileBytes": report.file_bytes,
        "writtenAt": instant(report.written_at),
        "installation": report.installation_uid,
        "keys": {"installation": 1, "pools": report.pools, "signingKeys": report.signing_keys},
        "variables": list(report.variables),
        "storeCredentials": False,
        "current": report.is_current,
        "missingKeys": list(report.missing),
        "changedSettings": list(report.changed_settings),
    }
