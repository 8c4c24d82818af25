"""Show and clear the segment cache of this host."""

from imgstore.domain.diagnosis import CacheFacts
from imgstore.domain.errors import HostFault
from imgstore.domain.host.os_errors import advise, describe
from imgstore.domain.identity.access import INSTALLATION, Action, Principal, authorize
from imgstore.operations.installation import Installation


def show_cache(installation: Installation, principal: Principal) -> CacheFacts:
    """Count the segments in the cache. The cache may contain segments of other installations."""
    authorize(principal, Action.READ, INSTALLATION)
    return read_cache_facts(installation)


def clear_cache(installation: Installation, principal: Principal) -> CacheFacts:
    """Remove all segments from the cache, also those of other installations. Running reads fetch segments again.

    Returns:
        The removed segments and bytes.

    Raises:
        HostFault: the folder cannot be used.
    """
    authorize(principal, Action.ADMINISTER, INSTALLATION)
    settings = installation.host_cache.settings
    if not settings.folder.exists():
        return CacheFacts(folder=settings.folder, bytes_max=settings.bytes_max)
    try:
        removed = installation.host_cache.open().clear()
    except OSError as error:
        raise HostFault(
            "The segment cache cannot be cleared.",
            found=describe(error, settings.folder),
            expected="an own folder that can be written",
            hint=f"{advise(error, settings.folder)}, or delete the folder",
            target="cache",
        ) from error
    return CacheFacts(
        folder=settings.folder,
        bytes_max=settings.bytes_max,
        segments=removed.segments,
        used_bytes=removed.used_bytes,
    )


def read_cache_facts(installation: Installation) -> CacheFacts:
    """Read the size and the fault of the cache. A missing folder is not created."""
    settings = installation.host_cache.settings
    segments, used_bytes, problem = 0, 0, None
    if settings.folder.exists():
        try:
            usage = installation.host_cache.open().measure()
            segments, used_bytes = usage.segments, usage.used_bytes
        except OSError as error:
            problem = describe(error, settings.folder)
    return CacheFacts(
        folder=settings.folder,
        bytes_max=settings.bytes_max,
        segments=segments,
        used_bytes=used_bytes,
        problem=problem,
    )
