"""imgstore as a user has it: the installed command, a home of its own, two regions on two engines."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from bench.engines import SOURCE_REGION, Site
from bench.processes import Command, Finished, run_timed

GROUP = "bench"
DEFINITION = "image"


@dataclass(slots=True, kw_only=True)
class Timing:
    """When what was done, in seconds from the call of the operation."""

    seconds: float = 0.0
    """When the operation returned."""
    completed: dict[str, float] = field(default_factory=dict)
    """When each region's replica was complete, as progress told it, by region."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """A home on a site, which a user would work on as we do: through the command line."""

    environment: Mapping[str, str]
    """What sets the command to work on this home and these regions."""

    @classmethod
    def make(cls, folder: Path, site: Site, database: Mapping[str, str] | None = None) -> Self:
        """A fresh home, its buckets made.

        Args:
            folder: for the home.
            site: its regions.
            database: the environment that names a database; None is SQLite.
        """
        folder.mkdir(parents=True)
        regions = folder / "regions.yaml"
        regions.write_text(site.regions_document)
        made = cls(
            environment={
                "IMGSTORE_HOME": str(folder / "home"),
                "IMGSTORE_REGIONS": str(regions),
                # A user's package is compiled when it is installed; where this is set, a checkout would be compiled
                # again at each command's start, 0.17 s.
                "PYTHONDONTWRITEBYTECODE": "",
                # The stores are measured. The case `cache` measures the segment cache.
                "IMGSTORE_CACHE_BYTES": "0",
                **site.source.credentials,
                **(database or {}),
            }
        )
        made.run("regions", "init")
        made.run("group", "create", "-n", GROUP, "-l", SOURCE_REGION)
        return made

    def run(self, *arguments: str | Path) -> Finished:
        """Runs `imgstore` with these arguments.

        Raises:
            ProgramFailed: it ended with another code than 0.
        """
        return run_timed([Path(sys.executable).parent / "imgstore", *arguments], self.environment)

    def make_gallery(self, name: str) -> "Gallery":
        """A new gallery with one definition. A gallery is a pool of its own, so nothing is known in it yet."""
        self.run("sig", "create", "-g", GROUP, "-r", name)
        definition = ["--publisher", "bench", "--offer", "bench", "--sku", name, "--os-type", "Linux"]
        names = "-g", GROUP, "-r", name, "-i", DEFINITION
        self.run("sig", "image-definition", "create", *names, *definition, "--os-state", "Generalized")
        return Gallery(installation=self, name=name)

    def egress_rows(self, gallery: str) -> list[dict[str, Any]]:
        """The bill's rows for what crossed a border for `gallery`."""
        rows: list[dict[str, Any]] = json.loads(self.run("bill", "show", "-o", "json").output)["rows"]
        return [row for row in rows if row["kind"] == "egress" and gallery in str(row["gallery"])]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """One gallery of an installation, with the definition that the benches publish to."""

    installation: Installation
    name: str

    def publish(
        self,
        version: str,
        disk: Path | str,
        targets: Sequence[str] | None = None,
        *,
        region: str = SOURCE_REGION,
    ) -> Finished:
        """Publishes a disk in a region and brings it to all of `targets`, spelt as the command line does.

        Args:
            version: its name.
            disk: a file, or where else it is, as --os-vhd-uri takes it.
            targets: with the region among them; None is that alone.
            region: where it is taken in.
        """
        source = "--os-vhd-uri", disk, "--location", region
        return self._version("create", version, *source, "--target-regions", *(targets or [region]))

    def retarget(self, version: str, targets: Sequence[str]) -> Finished:
        """Gives a version other target regions, all of them, and waits until it is there."""
        return self._version("update", version, "--target-regions", *targets)

    def delete(self, version: str) -> Finished:
        """Deletes a version; its bytes wait for `gc`."""
        return self._version("delete", version, "--yes")

    def _version(self, verb: str, version: str, *words: str | Path) -> Finished:
        names = "-g", GROUP, "-r", self.name, "-i", DEFINITION, "-e", version
        return self.installation.run("sig", "image-version", verb, *names, *words)

    def export(self, version: str, region: str, file: Path, form: str = "raw") -> Finished:
        """Writes a version's disk from a replica in `region` into a new file."""
        reference = f"{GROUP}/{self.name}/{DEFINITION}/{version}"
        where = "--location", region, "--file", file, "--format", form
        return self.installation.run("disk", "export", "--gallery-image-reference", reference, *where)

    def publish_inside(self, version: str, disk: Path, targets: Sequence[str] = (SOURCE_REGION,)) -> Timing:
        """`publish`, timed within a process that has started already."""
        return self._inside("publish", version, disk, *targets)

    def export_inside(self, version: str, region: str, file: Path) -> Timing:
        """`export`, timed within a process that has started already."""
        return self._inside("export", version, file, region)

    def _inside(self, verb: str, version: str, file: Path, *regions: str) -> Timing:
        words: Command = [sys.executable, "-m", "bench.inside", verb, self.name, version, file, *regions]
        return Timing(**json.loads(run_timed(words, self.installation.environment).output))

    def delivered_bytes(self, version: str) -> int:
        """What the bill says crossed into the target region for a version."""
        rows = self.installation.egress_rows(self.name)
        return sum(row["deliveredBytes"] for row in rows if row["version"] == version)
