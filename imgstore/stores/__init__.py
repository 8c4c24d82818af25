"""Stores of bytes and their wrappers, without knowledge of disks, segments or the catalog.

Users import ``imgstore.stores.s3.store`` and ``imgstore.stores.http.http_source`` directly, because boto3 takes 0.3 s
to load. Commands on directories do not need boto3.
"""

from imgstore.stores.directory import DirectoryStore
from imgstore.stores.interface import (
    DELETE_KEYS_MAX,
    Accept,
    Body,
    Copies,
    Deletes,
    Gets,
    Heads,
    Lists,
    ObjectInfo,
    ObjectStore,
    Puts,
    StoreProperties,
    check_key,
    crc32_checksum,
)
from imgstore.stores.memory import MemoryStore
from imgstore.stores.wrappers.bandwidth_limit import BandwidthLimitedStore, TokenBucket, Wait
from imgstore.stores.wrappers.metering import MeteredStore, Traffic, TrafficMeter
from imgstore.stores.wrappers.retry import Retrier, RetryingStore, RetryPolicy
from imgstore.stores.zone_redundant import MissedWrite, RepairNote, ZoneCopies, ZoneRedundantStore

__all__ = [
    "DELETE_KEYS_MAX",
    "Accept",
    "BandwidthLimitedStore",
    "Body",
    "Copies",
    "Deletes",
    "DirectoryStore",
    "Gets",
    "Heads",
    "Lists",
    "MemoryStore",
    "MeteredStore",
    "MissedWrite",
    "ObjectInfo",
    "ObjectStore",
    "Puts",
    "RepairNote",
    "Retrier",
    "RetryPolicy",
    "RetryingStore",
    "StoreProperties",
    "TokenBucket",
    "Traffic",
    "TrafficMeter",
    "Wait",
    "ZoneCopies",
    "ZoneRedundantStore",
    "check_key",
    "crc32_checksum",
]
