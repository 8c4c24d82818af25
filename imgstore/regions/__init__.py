"""Locates stores: which regions there are, which zones they have, and the store that a slot lies in.

1. `load_regions` reads regions.yaml (``document.py``, over ``sections.py``) into `Regions` (``model.py``).
2. `Locator.choose_zone` says where a new slot is to lie; `Locator.store` gives the store of one (``locator.py``).
3. Each zone bears a mark, FORMAT (``marks.py``), and is used only once it was found right (``zones.py``).
"""

from imgstore.regions.document import load_regions
from imgstore.regions.locator import Locator
from imgstore.regions.model import ALL_ZONES, Policy, Region, Regions, Zone
from imgstore.regions.zones import ZoneReport

__all__ = ["ALL_ZONES", "Locator", "Policy", "Region", "Regions", "Zone", "ZoneReport", "load_regions"]
