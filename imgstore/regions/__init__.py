"""Locates stores: which regions there are, which zones they have, and the store that a slot lies in.

1. `load_regions` reads regions.yaml (``regions/regions_file.py``, over ``regions/yaml_sections.py``) into `Regions` (``model.py``).
2. `Locator.choose_zone` says where a new slot is to lie; `Locator.store` gives the store of one (``regions/store_locator.py``).
3. Each zone bears a mark, FORMAT (``regions/format_mark.py``), and a uid that the catalog records (``api/arm/login.py``). It is used only
   once both were found right (``zones.py``).
"""

from imgstore.regions.identity import Consent, ZoneRegistry
from imgstore.regions.model import ALL_ZONES, Policy, Region, Regions, Zone
from imgstore.regions.regions_file import load_regions
from imgstore.regions.store_locator import Locator
from imgstore.regions.zones import ZoneReport

__all__ = [
    "ALL_ZONES",
    "Consent",
    "Locator",
    "Policy",
    "Region",
    "Regions",
    "Zone",
    "ZoneRegistry",
    "ZoneReport",
    "load_regions",
]
