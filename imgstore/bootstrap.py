"""Assembles: settings and regions.yaml become the collaborators of an Installation."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from imgstore.catalog import Catalog
from imgstore.domain.effects import Effects
from imgstore.domain.errors import InvalidInput
from imgstore.domain.progress import Subscriber, silent
from imgstore.operations.holding import LEASE_SECONDS, LeaseKeeper
from imgstore.operations.installation import Installation, Tuning
from imgstore.regions import Locator, load_regions

_DATABASE_FILE: Final = "catalog.sqlite"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a person may set, from options and the environment."""

    home: Path
    """The data folder: the SQLite catalog, the embedded regions, scratch files."""
    regions: Path | None = None
    """regions.yaml; None is the shipped one."""
    database: str | None = None
    """A URL; None is SQLite in the home."""
    subscription: str | None = None
    """None is the one that was made at first start."""
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    lease_seconds: float = LEASE_SECONDS
    tuning: Tuning = field(default_factory=Tuning)


def default_home(environ: Mapping[str, str]) -> Path:
    """Where data lies by the XDG rules: ``$XDG_DATA_HOME/imgstore``, else ``~/.local/share/imgstore``."""
    base = environ.get("XDG_DATA_HOME") or str(Path(environ.get("HOME", "~")).expanduser() / ".local" / "share")
    return Path(base) / "imgstore"


@contextmanager
def open_installation(
    settings: Settings, subscriber: Subscriber = silent, effects: Effects | None = None
) -> Iterator[Installation]:
    """Open the installation, making its catalog at first use; close it when the block ends.

    Raises:
        RegionsFault: regions.yaml cannot be used.
        InvalidInput: the home cannot be used.
        StoreError: the database does not answer.
    """
    outside = effects or Effects()
    regions = load_regions(settings.regions, settings.environ)
    scratch = _folder(settings.home / "scratch")
    catalog = Catalog.open(settings.database or f"sqlite:///{settings.home / _DATABASE_FILE}", outside)
    try:
        with catalog.transaction() as facts:
            row = facts.installation.ensure(settings.subscription)
        locator = Locator(
            regions,
            home=settings.home,
            installation_uid=row.uid,
            environ=settings.environ,
            effects=outside,
        )
        keeper = LeaseKeeper(catalog, settings.lease_seconds)
        try:
            yield Installation(
                uid=row.uid,
                subscription=settings.subscription or row.subscription,
                home=settings.home,
                scratch=scratch,
                catalog=catalog,
                regions=regions,
                locator=locator,
                keeper=keeper,
                effects=outside,
                environ=settings.environ,
                tuning=settings.tuning,
                subscriber=subscriber,
            )
        finally:
            keeper.close()
    finally:
        catalog.close()


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise InvalidInput(
            f"The data folder {path.parent} cannot be used.",
            found=str(error),
            expected="a folder that may be written to",
            hint="give another one with --home or IMGSTORE_HOME",
            target="home",
        ) from error
    return path
