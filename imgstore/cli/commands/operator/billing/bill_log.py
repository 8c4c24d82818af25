"""``imgstore bill prove``, ``verify``, ``checkpoint``, ``seal`` and ``rotate-key``: the log of sealed entries."""

from pathlib import Path
from typing import Final

import click

from imgstore.cli.framework.command import Answer, Command
from imgstore.cli.framework.output import Rows, columns
from imgstore.cli.framework.saved_outputs import read_saved_output
from imgstore.cli.framework.session import Session
from imgstore.domain.text.strict_json import read_json
from imgstore.operations.ledger_log import keys, proofs
from imgstore.operations.ledger_log import seal as sealing
from imgstore.operations.ledger_log import verify as verification
from imgstore.wire.json_text import Json
from imgstore.wire.responses.ledger_log import checkpoint_json, key_json, proof_json, seal_json, verification_json

_CHECKPOINT_BYTES_MAX: Final = 128 * 1024
_FINDINGS = columns(Kind="kind", Subject="subject", Text="text")


def _verification_table(body: Json) -> Rows:
    rows = _FINDINGS(body["findings"])
    unsealed = [
        {
            "Kind": "unsealed",
            "Subject": each["entry"],
            "Text": f"open since {each['time']}" if each["isOpen"] else each["time"],
        }
        for each in body["unsealed"]
    ]
    silent = [
        {"Kind": "not compared", "Subject": f"region {each['region']}", "Text": each["problem"]}
        for each in body["regionsNotCompared"]
    ]
    text = f"{body['verified']} of {body['size']} sealed entries compared, {body['unsealedCount']} not sealed"
    if body["nextStep"] is not None:
        text = f"{text}: {body['nextStep']}"
    return [
        *rows,
        *unsealed,
        *silent,
        {"Kind": "intact" if body["intact"] else "NOT INTACT", "Subject": "log", "Text": text},
    ]


@click.command(cls=Command, example="imgstore bill prove 2f0c8a52-8e0f-4c52-b2cf-4a59a1e1b8d4 > entry.json")
@click.argument("entry", metavar="ENTRY")
def prove(session: Session, entry: str) -> Json:
    """Print the proof that an entry of the ledger is sealed.

    ENTRY is the key of a transfer, or the uid of a closed storage interval or a price list. The output has the entry as
    canonical JSON (`leaf`), the proof with a signed checkpoint (`proof`, https://c2sp.org/tlog-proof), and the public key
    (`verifierKey`). docs/billing.md has a program that checks the output without imgstore. An entry that is not sealed
    yet is an error.
    """
    return proof_json(session.run(proofs.prove_entry, entry))


@click.command(
    cls=Command,
    table=_verification_table,
    example="imgstore bill verify -o table\nimgstore bill verify --checkpoint kept.json\n"
    "imgstore bill verify --checkpoint kept.json --newer-only",
)
@click.option(
    "--checkpoint",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="An older checkpoint that the log must extend: the output of `bill checkpoint`, or an object of a bucket.",
)
@click.option(
    "--newer-only",
    is_flag=True,
    help="Leave out the rows of entries that the older checkpoint covers. A change of these rows is not found.",
)
def verify(session: Session, file: Path | None, *, newer_only: bool) -> Answer:
    """Compare the ledger with the log of its sealed entries.

    The command compares each sealed entry with its row, the log with all signed checkpoints and with the newest checkpoint in
    the buckets of each region, and the keys with each other. A region without an answer within 10 seconds is listed and is
    no fault.
    Entries that are not sealed yet are listed and are no fault, also open storage intervals of past months. The exit code is
    1 if something differs.
    """
    older = None if file is None else _read_checkpoint(file)
    report = session.run(verification.verify_log, older=older, newer_only=newer_only)
    return Answer(body=verification_json(report), exit_code=0 if report.is_intact else 1)


@click.command(
    cls=Command, example="imgstore bill checkpoint > kept.json\nimgstore bill checkpoint --query checkpoint -o tsv"
)
def checkpoint(session: Session) -> Json:
    """Print the newest signed checkpoint of the ledger's log.

    Store the output where no administrator of the installation can change it. `bill verify --checkpoint` then finds each
    change of older entries, also by a person with the signing key.
    """
    return checkpoint_json(*session.run(proofs.show_checkpoint))


@click.command(cls=Command, example="imgstore bill seal")
def seal(session: Session) -> Answer:
    """Seal all entries of the ledger now, and store the checkpoint in the buckets.

    The command first closes the open storage intervals at the ends of past months. A worker does the same once an hour (`ledger_interval_seconds`). A price list that imgstore has not written is not
    sealed (`refused`), and the exit code is 1.
    """
    report = session.run(sealing.seal_now)
    return Answer(body=seal_json(report), exit_code=1 if report.refused else 0)


@click.command(cls=Command, example="imgstore bill rotate-key")
def rotate_key(session: Session) -> Json:
    """Replace the key that signs checkpoints.

    The present key signs the new key (`endorsement`), and its private part is removed. Older checkpoints stay valid. Write
    a new recovery file afterwards.
    """
    return key_json(*session.run(keys.rotate_key))


def _read_checkpoint(file: Path) -> str:
    """Return the signed text in a file: the text itself, or the output of `bill checkpoint`."""
    text = read_saved_output(
        file,
        noun="checkpoint",
        command="imgstore bill checkpoint",
        bytes_max=_CHECKPOINT_BYTES_MAX,
        target="checkpoint",
    )
    if text.startswith("{"):
        try:
            text = str(read_json(text)["checkpoint"])
        except (ValueError, KeyError):
            return text
    return text.rstrip("\n") + "\n"
