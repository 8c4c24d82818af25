"""Regions, their zones, and the stores of slots.

1. `load_regions` reads regions.yaml into `Regions` (``regions_file.py``, ``yaml_sections.py``, ``model.py``).
2. `Locator.choose_zone` places a new slot. `Locator.store` opens the store of a slot (``store_locator.py``).
3. Each zone has a mark, FORMAT (``format_mark.py``), and a uid that the catalog records (``identity.py``). A zone is
   used only after both were checked (``zones.py``).
"""

from imgstore.regions.identity import Consent, ZoneRegistry
from imgstore.regions.model import ALL_ZONES, Policy, Region, Regions, Zone
from imgstore.regions.regions_file import load_regions
from imgstore.regions.store_locator import Locator
from imgstore.regions.zones import FoundZone, VersionedZone, ZoneReport

__all__ = [
    "ALL_ZONES",
    "Consent",
    "FoundZone",
    "Locator",
    "Policy",
    "Region",
    "Regions",
    "VersionedZone",
    "Zone",
    "ZoneRegistry",
    "ZoneReport",
    "load_regions",
]
