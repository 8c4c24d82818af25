"""Proofs and verifications of the ledger's log as JSON."""

from typing import TYPE_CHECKING, Final

from imgstore.wire.json_text import Json, instant

if TYPE_CHECKING:
    from imgstore.ledger.log.log_entries import EntryProof, LogFinding, LogKey, LogVerification, SealReport
    from imgstore.ledger.log.signed_notes import Checkpoint

_UNSEALED_MAX: Final = 1_000
"""The number of entries in a report that are listed. The report has the number of all entries."""
_UNSEALED_STEP: Final = "seal the entries with `imgstore bill seal`, or run a worker"


def proof_json(proof: "EntryProof") -> Json:
    """Return the proof of an entry. A verifier needs `leaf`, `proof` and a trusted `verifierKey`."""
    return {
        "entry": proof.entry,
        "index": proof.index,
        "size": proof.checkpoint.size,
        "hashes": proof.hashes,
        "signedAt": instant(proof.checkpoint.signed_at),
        "leaf": proof.leaf,
        "proof": proof.proof,
        "verifierKey": proof.verifier_key,
    }


def seal_json(report: "SealReport") -> Json:
    """Return the result of sealing."""
    return {
        "sealed": report.sealed,
        "size": report.size,
        "checkpoint": report.checkpoint,
        "refused": [_finding_json(each) for each in report.refused],
    }


def checkpoint_json(note: str, checkpoint: "Checkpoint") -> Json:
    """Return a signed checkpoint."""
    return {"size": checkpoint.size, "signedAt": instant(checkpoint.signed_at), "checkpoint": note}


def key_json(key: "LogKey", verifier_key: str) -> Json:
    """Return a key without its private part."""
    return {
        "kid": key.kid,
        "number": key.number,
        "verifierKey": verifier_key,
        "createdAt": instant(key.created_at),
        "retiredAt": None if key.retired_at is None else instant(key.retired_at),
        "endorsement": key.endorsement,
    }


def verification_json(report: "LogVerification") -> Json:
    """Return the result of a verification."""
    return {
        "intact": report.is_intact,
        "size": report.size,
        "verified": report.verified,
        "skipped": report.skipped,
        "checkpoints": report.checkpoints,
        "newestSignedAt": None if report.newest is None else instant(report.newest.signed_at),
        "extends": None if report.extends is None else report.extends.size,
        "unsealedCount": len(report.unsealed),
        "unsealed": [
            {"entry": each.entry, "time": each.time, "isOpen": each.is_open} for each in report.unsealed[:_UNSEALED_MAX]
        ],
        "nextStep": _UNSEALED_STEP if report.unsealed else None,
        "findingCount": len(report.findings) + report.more_findings,
        "findings": [_finding_json(each) for each in report.findings],
        "regionsNotCompared": [
            {"region": each.region, "problem": each.problem} for each in report.buckets if each.problem is not None
        ],
        "keys": [
            {
                "kid": key.kid,
                "createdAt": instant(key.created_at),
                "retiredAt": None if key.retired_at is None else instant(key.retired_at),
                "endorsed": key.number == 1 or key.endorsement is not None,
            }
            for key in report.keys
        ],
    }


def _finding_json(finding: "LogFinding") -> Json:
    return {"kind": finding.kind.value, "subject": finding.subject, "text": finding.text}
