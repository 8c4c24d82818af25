"""Locates stores: which regions there are, which zones they have, and the store that a slot lies in.

1. `load_regions` reads regions.yaml (``document.py``, over ``sections.py``) into `Regions` (``model.py``).
2. `Locator.choose_zone` says where a new slot is to lie; `Locator.store` gives the store of one (``locator.py``).
3. Each zone bears a mark, FORMAT (``marks.py``), and a uid that the catalog records (``identity.py``). It is used only
   once both were found right (``zones.py``).
"""

from imgstore.regions.document import load_regions
from imgstore.regions.identity import Consent, ZoneRegistry
from imgstore.regions.locator import Locator
from imgstore.regions.model import ALL_ZONES, Policy, Region, Regions, Zone
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
