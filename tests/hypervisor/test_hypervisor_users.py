"""The user of QEMU is never root, and the refusals name the next step (invariant V1)."""

import os
import pwd

import pytest

from imgstore.domain.errors import InvalidInput
from imgstore.hypervisor.users import choose_user

_ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@_ROOT_ONLY
def test_root_gets_a_user_for_each_machine() -> None:
    users = {choose_user(None, f"machine {number}").uid for number in range(20)}
    assert not users & {0, os.getuid()}
    assert len(users) == 20 or users == {65534}
    assert choose_user("nobody", "m").uid == pwd.getpwnam("nobody").pw_uid
    assert choose_user("12345", "m").uid == 12345


@_ROOT_ONLY
@pytest.mark.parametrize("word", ["root", "0", "no-such-user", "-1", "99999999999999999999"])
def test_root_and_unknown_users_are_refused(word: str) -> None:
    with pytest.raises(InvalidInput):
        choose_user(word, "m")


def test_another_user_than_root_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    own = pwd.getpwnam("nobody")
    monkeypatch.setattr(os, "geteuid", lambda: own.pw_uid)
    monkeypatch.setattr(os, "getegid", lambda: own.pw_gid)
    with pytest.raises(InvalidInput) as refused:
        choose_user(None, "m")
    assert "--runas nobody" in (refused.value.hint or "")
    with pytest.raises(InvalidInput):
        choose_user("12345", "m")
    assert choose_user("nobody", "m").uid == own.pw_uid
