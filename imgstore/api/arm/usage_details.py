"""Serve usage details of Microsoft.Consumption: the charges of a subscription or resource group by day and resource."""

from dataclasses import replace
from typing import Annotated, Final

from fastapi import APIRouter, Query, Response

from imgstore.api.http.context import Context
from imgstore.api.http.paths import GROUP_USAGE, USAGE
from imgstore.operations.billing.usage_details import page_usage_details
from imgstore.wire.api_versions import Kind
from imgstore.wire.requests.usage_filter import read_top, read_usage_filter
from imgstore.wire.responses.usage_details import usage_detail_json

router = APIRouter(tags=["Usage details"])

_FILTER: Final = "properties/usageStart ge '2026-11-01' and properties/usageEnd le '2026-11-30'"
_Filter = Annotated[str | None, Query(alias="$filter", description=f"Default: the current month. Example: {_FILTER}")]
_Top = Annotated[str | None, Query(alias="$top", description="Items of a page, from 1 to 1000")]
_Expand = Annotated[
    str | None, Query(alias="$expand", description="properties/meterDetails, properties/additionalInfo")
]


@router.get(USAGE, summary="List the usage details of a subscription")
async def list_of_subscription(
    context: Context, wanted: _Filter = None, top: _Top = None, expand: _Expand = None
) -> Response:
    """Serve Azure's UsageDetails_List for a subscription."""
    return await _answer(context, None, wanted, top, expand)


@router.get(GROUP_USAGE, summary="List the usage details of a resource group")
async def list_of_group(
    context: Context, group: str, wanted: _Filter = None, top: _Top = None, expand: _Expand = None
) -> Response:
    """Serve Azure's UsageDetails_List for a resource group."""
    return await _answer(context, group, wanted, top, expand)


async def _answer(
    context: Context, group: str | None, wanted: str | None, top: str | None, expand: str | None
) -> Response:
    return await context.list_response(
        Kind.USAGE_DETAIL,
        lambda at, page: at.run(
            page_usage_details,
            replace(page, items_max=read_top(top) or page.items_max),
            group=group,
            wanted=read_usage_filter(wanted),
        ),
        lambda detail: usage_detail_json(detail, expand),
        exact=True,
    )
