"""Changes of a scale set's image: each difference is named, all in one error."""

from dataclasses import replace

import pytest

from imgstore.domain.errors import InvalidInput
from imgstore.domain.resources import HyperVGeneration, OsProperties, OsState, OsType
from imgstore.domain.storage.sizes import GIB
from imgstore.policy.image_change import ImageShape, check_image_change, compare_images

_LINUX = OsProperties(os_type=OsType.LINUX, os_state=OsState.GENERALIZED, hyper_v_generation=HyperVGeneration.V1)
_CURRENT = ImageShape(reference="managed", os_properties=_LINUX, data_disk_bytes={0: GIB, 2: 4 * GIB})


@pytest.mark.parametrize(
    ("wanted", "differences"),
    [
        ({}, []),
        ({"reference": "version"}, []),
        ({"os_properties": replace(_LINUX, os_type=OsType.WINDOWS)}, [("OS type", "Windows", "Linux")]),
        ({"os_properties": replace(_LINUX, os_type=None)}, []),
        (
            {"os_properties": replace(_LINUX, hyper_v_generation=HyperVGeneration.V2)},
            [("Hyper-V generation", "V2", "V1")],
        ),
        ({"os_properties": replace(_LINUX, hyper_v_generation=None)}, []),
        (
            {"os_properties": replace(_LINUX, os_state=OsState.SPECIALIZED)},
            [("OS state", "Specialized", "Generalized")],
        ),
        (
            {"data_disk_bytes": {}},
            [("data disk at LUN 0", "none", "1 GiB"), ("data disk at LUN 2", "none", "4 GiB")],
        ),
        ({"data_disk_bytes": {0: GIB, 2: 4 * GIB, 3: GIB}}, [("data disk at LUN 3", "1 GiB", "none")]),
        ({"data_disk_bytes": {0: GIB + 512, 2: 4 * GIB}}, [("data disk at LUN 0", "1073742336 bytes", "1 GiB")]),
        (
            {"data_disk_bytes": {0: GIB, 1: 4 * GIB}},
            [("data disk at LUN 1", "4 GiB", "none"), ("data disk at LUN 2", "none", "4 GiB")],
        ),
        (
            {
                "os_properties": OsProperties(os_type=OsType.WINDOWS, hyper_v_generation=HyperVGeneration.V2),
                "data_disk_bytes": {0: GIB},
            },
            [
                ("OS type", "Windows", "Linux"),
                ("Hyper-V generation", "V2", "V1"),
                ("data disk at LUN 2", "none", "4 GiB"),
            ],
        ),
    ],
)
def test_differences_of_images(wanted: dict[str, object], differences: list[tuple[str, str, str]]) -> None:
    changed = replace(_CURRENT, **wanted)  # type: ignore[arg-type]
    found = compare_images(_CURRENT, changed)
    assert [(each.words, each.found, each.expected) for each in found] == differences
    if not differences:
        check_image_change(_CURRENT, changed, set_name="front")
        return
    with pytest.raises(InvalidInput) as refused:
        check_image_change(_CURRENT, changed, set_name="front")
    error = refused.value
    assert (error.status, error.error_code) == (400, "PropertyChangeNotAllowed")
    assert error.found == "; ".join(f"{words} {value}" for words, value, _ in differences)
    assert error.expected == "; ".join(f"{words} {value}" for words, _, value in differences)
    assert len(error.details) == len(differences)


def test_an_undeclared_generation_is_the_first_generation() -> None:
    undeclared = replace(_CURRENT, os_properties=replace(_LINUX, hyper_v_generation=None))
    second = replace(_CURRENT, os_properties=replace(_LINUX, hyper_v_generation=HyperVGeneration.V2))
    assert [each.words for each in compare_images(undeclared, second)] == ["Hyper-V generation"]


def test_the_message_joins_the_properties() -> None:
    wanted = ImageShape(reference="v2", os_properties=replace(_LINUX, os_type=OsType.WINDOWS), data_disk_bytes={0: GIB})
    with pytest.raises(InvalidInput, match="to the image 'v2': OS type and data disk at LUN 2 differ"):
        check_image_change(_CURRENT, wanted, set_name="front")
