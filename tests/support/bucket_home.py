"""A home whose only zone is a bucket of an S3 engine, and raw access to the bucket."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from imgstore.cli.main import main
from imgstore.testing.engines import S3Engine

_REGIONS = """
currency: USD
regions:
  southcentralus:
    bucket: {bucket}
    policy: LRS
    storage_account_types: [Standard_LRS]
    zones: {{"1": {{endpoint: "{endpoint}"}}}}
prices: {{egress_per_gb: {{default: 0}}, storage_per_gb_month: {{Standard_LRS: 0}}}}
"""


@dataclass(kw_only=True)
class BucketHome:
    """A home with the region southcentralus in a bucket."""

    engine: S3Engine
    bucket: str
    home: Path
    client: Any
    environ: Mapping[str, str] = field(default_factory=dict)
    """Variables of the command lines, in addition to those of the test."""

    @property
    def regions(self) -> Path:
        """The regions.yaml of the home."""
        return self.home.with_suffix(".yaml")

    def run(self, *words: str) -> Result:
        """Run a command line on the home."""
        line = [*words, "--home", str(self.home), "--regions", str(self.regions)]
        return CliRunner().invoke(main, line, prog_name="imgstore", env=self.environ)


def write_regions(path: Path, *, bucket: str, endpoint: str) -> Path:
    """Write a regions.yaml with the region southcentralus in a bucket."""
    path.write_text(_REGIONS.format(bucket=bucket, endpoint=endpoint))
    return path
