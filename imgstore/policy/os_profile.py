"""Check the OS profile of a machine (invariant D11).

A generalized image requires an OS profile. A specialized image rejects an OS profile.
"""

from imgstore.domain.errors import InvalidInput
from imgstore.domain.requests import OsProfile
from imgstore.domain.resources import OsState


def check_os_profile(state: OsState, profile: OsProfile, *, specialized: bool, source: str, name: str) -> OsProfile:
    """Check an OS profile, and complete the profile with the default computer name.

    Args:
        state: The OS state of the source.
        profile: The requested profile.
        specialized: True if the request declares a specialized source.
        source: The name of the image or disk in messages.
        name: The name of the machine: the default computer name.

    Raises:
        InvalidInput: A profile is missing or not allowed, or the source is not specialized as declared.
    """
    if specialized and state is not OsState.SPECIALIZED:
        raise InvalidInput(
            f"The image '{source}' is {state}.",
            found="--specialized",
            expected="a specialized image",
            hint="leave --specialized out, and add --admin-username",
            target="osState",
        )
    if state is OsState.SPECIALIZED:
        if not profile.is_empty:
            raise InvalidInput(
                "Parameter 'osProfile' is not allowed.",
                found=f"an OS profile for the specialized image '{source}', which already contains users and a computer name",
                expected="no OS profile",
                hint="leave --admin-username and --computer-name out",
                target="osProfile",
            )
        return profile
    if profile.admin_username is None:
        raise InvalidInput(
            "Required parameter 'osProfile' is missing (null).",
            found=f"no --admin-username, and the generalized image '{source}', which contains no users",
            expected="the name of the first user",
            hint="name the user with --admin-username",
            target="osProfile",
        )
    return OsProfile(admin_username=profile.admin_username, computer_name=profile.computer_name or name)
