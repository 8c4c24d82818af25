"""What all tests share: nothing of the machine they run on leaks in, and the long ones wait to be asked."""

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

# A deadline would make a test's verdict depend on how busy the machine is.
settings.register_profile("imgstore", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("imgstore")

# A background job of a script inherits an ignored SIGINT, and passes it on to each process that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _inherited in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
    signal.signal(_inherited, signal.SIG_DFL)

_FOR_THE_RUN = frozenset({"IMGSTORE_TEST_S3_ENDPOINT", "IMGSTORE_REQUIRE_ENGINES"})


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings of the person's, no AWS configuration, no metadata service."""
    for name in list(os.environ):
        if name.startswith("IMGSTORE_") and name not in _FOR_THE_RUN:
            monkeypatch.delenv(name)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.markexpr:
        return
    long = [item for item in items if item.get_closest_marker("long")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in set(long)]
