"""What a machine may be made with: an OS profile where its image is generalized, none where it is specialized. Pure."""

from imgstore.domain.errors import InvalidInput
from imgstore.domain.requests import OsProfile
from imgstore.domain.resources import OsState


def check_os_profile(state: OsState, profile: OsProfile, *, specialized: bool, source: str, name: str) -> OsProfile:
    """The OS profile with its default, if the source takes one.

    Args:
        state: of the source.
        profile: as it was asked for.
        specialized: it was said that the source is.
        source: the image or disk, for people.
        name: the machine's, its computer's name where none is given.

    Raises:
        InvalidInput: one is lacking, or one too many; or the source is not what it was said to be.
    """
    if specialized and state is not OsState.SPECIALIZED:
        raise InvalidInput(
            f"The image '{source}' is {state}.",
            found="--specialized",
            expected="a specialized image",
            hint="leave --specialized out, and name --admin-username",
            target="osState",
        )
    if state is OsState.SPECIALIZED:
        if not profile.is_empty:
            raise InvalidInput(
                "Parameter 'osProfile' is not allowed.",
                found=f"an OS profile, and the specialized '{source}', which has its users and its name already",
                expected="no OS profile",
                hint="leave --admin-username and --computer-name out",
                target="osProfile",
            )
        return profile
    if profile.admin_username is None:
        raise InvalidInput(
            "Required parameter 'osProfile' is missing (null).",
            found=f"no --admin-username, and '{source}', which is generalized: it has no users yet",
            expected="the name of the first user",
            hint="name it with --admin-username",
            target="osProfile",
        )
    return OsProfile(admin_username=profile.admin_username, computer_name=profile.computer_name or name)
