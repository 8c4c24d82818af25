"""A region with a zone on each of several engines."""

from dataclasses import dataclass

from bench.engines import SOURCE_REGION, Site


@dataclass(frozen=True, slots=True, kw_only=True)
class ZonedSite(Site):
    """One region whose zones are the buckets. The replicas of a version take turns through the zones."""

    @property
    def regions_document(self) -> str:
        """The regions.yaml of an installation on these engines."""
        zones = "".join(
            f'      "{number}": {{endpoint: "{each.engine.endpoint}", signing_region: us-east-1, path_style: true}}\n'
            for number, each in enumerate(self.regions, start=1)
        )
        return (
            f"currency: USD\nregions:\n  {SOURCE_REGION}:\n    display_name: {SOURCE_REGION}\n"
            f"    bucket: {self.source.name}\n    policy: LRS\n    storage_account_types: [Standard_LRS]\n"
            f"    zones:\n{zones}prices:\n"
            '  egress_per_gb: {default: "0.02"}\n'
            '  storage_per_gb_month: {Standard_LRS: "0.05"}\n'
        )
