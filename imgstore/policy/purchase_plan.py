"""The purchase plan of an image, which each machine from the image must name."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from imgstore.domain.errors import InvalidInput
from imgstore.domain.resources import PurchasePlan


def check_purchase_plan(plan: PurchasePlan | None, named: object, machine_id: str) -> None:
    """Check that a new machine names the purchase plan of its image. Values are case-insensitive, as in Azure.

    Args:
        plan: The plan of the image definition. None permits any plan of the machine.
        named: The plan of the machine's request: name, publisher and product, or None.
        machine_id: The resource id of the machine.

    Raises:
        InvalidInput: The plan is missing or differs.
    """
    wanted = {} if plan is None else {part: value for part, value in asdict(plan).items() if value}
    given: dict[str, Any] = {}
    if isinstance(named, Mapping):
        given = {str(part).lower(): value for part, value in named.items() if value}
    if all(str(given.get(part, "")).lower() == value.lower() for part, value in wanted.items()):
        return
    needed = ", ".join(f"{part} {value}" for part, value in wanted.items())
    raise InvalidInput(
        "Creating a virtual machine from Marketplace image or a custom image sourced from a Marketplace image requires Plan "
        f"information in the request. VM: '{machine_id}'.",
        found=", ".join(f"{part} {given[part]}" for part in wanted if part in given) or "no plan",
        expected=f"the plan of the image: {needed}",
        hint="name the plan: " + " ".join(f"--plan-{part} {value}" for part, value in wanted.items()),
        target="plan",
        code="VMMarketplaceInvalidInput",
    )
