"""The features of an image definition, with the names and values that Azure accepts.

Sources: "Store and share images in an Azure Compute Gallery", Image definitions, and the message of the service for a
wrong value (docs/azure.md).
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from imgstore.domain.errors import InvalidInput
from imgstore.domain.resources import Feature, HyperVGeneration

SECURITY_TYPE: Final = "SecurityType"
VALUE_CHARACTERS_MAX: Final = 100

_WITHOUT_SECURITY: Final = ("Standard", "None")
"""Security types of a definition that any generation may have."""
_SECURITY_TYPES: Final = (
    "TrustedLaunch",
    "TrustedLaunchSupported",
    "ConfidentialVM",
    "ConfidentialVMSupported",
    "TrustedLaunchAndConfidentialVmSupported",
    *_WITHOUT_SECURITY,
)
_FLAG: Final = ("True", "False")
_CONTROLLERS: Final = ("SCSI", "NVMe")
_NAME: Final = re.compile(r"[A-Za-z0-9]+")
_VALUE: Final = re.compile(rf"[A-Za-z0-9 ,]{{1,{VALUE_CHARACTERS_MAX}}}")
_VALUES: Final = {
    SECURITY_TYPE: _SECURITY_TYPES,
    "IsAcceleratedNetworkSupported": _FLAG,
    "IsHibernateSupported": _FLAG,
    "IsMeasuredBootSupported": _FLAG,
    "IsSecureBootSupported": _FLAG,
    "DiskControllerTypes": _CONTROLLERS,
}
"""The known features. Azure adds features, so other names are accepted."""
_LISTS: Final = frozenset({"DiskControllerTypes"})
"""Features with several values, with commas between."""
_TARGET: Final = "galleryImage.properties.features"
_HINT: Final = 'for example: --features "SecurityType=TrustedLaunch IsHibernateSupported=True"'
_SHOWN_CHARACTERS: Final = 100


def check_features(features: Sequence[Feature], generation: HyperVGeneration) -> None:
    """Check the names, the values and the uniqueness of features. Names and values are case-insensitive.

    Raises:
        InvalidInput: A feature has a wrong name or value, occurs twice, or needs generation V2.
    """
    named = [feature.name.lower() for feature in features]
    known = {name.lower(): name for name in _VALUES}
    twice = sorted({name for name in named if named.count(name) > 1})
    if twice:
        raise _invalid_features(
            "The features of an image definition are invalid.",
            found=f"{', '.join(known.get(name, name)[:_SHOWN_CHARACTERS] for name in twice)} more than once",
            expected="each feature once",
        )
    for feature in features:
        name = known.get(feature.name.lower(), feature.name)
        if not _NAME.fullmatch(name):
            raise _invalid_features(
                "The features of an image definition are invalid.",
                found=f"the feature {name[:_SHOWN_CHARACTERS]!r}",
                expected="names of letters and digits",
            )
        _check_value(name, feature.value)
        if (
            name == SECURITY_TYPE
            and generation is HyperVGeneration.V1
            and not _is_one(feature.value, _WITHOUT_SECURITY)
        ):
            raise _invalid_features(
                f"The value '{feature.value}' for feature '{name}' needs the Hyper-V generation V2.",
                found=f"hyperVGeneration {generation}",
                expected=f"hyperVGeneration V2, or {name} {' or '.join(_WITHOUT_SECURITY)}",
                hint="add --hyper-v-generation V2, or leave the security type out",
            )


def canonical_feature(feature: Feature) -> Feature:
    """Return a feature with the name and the values in Azure's spelling. Unknown names and values stay."""
    names = {name.lower(): name for name in _VALUES}
    name = names.get(feature.name.lower(), feature.name)
    words = {word.lower(): word for word in _VALUES.get(name, ())}
    values = re.split(r"(\s*,\s*)", feature.value) if name in _LISTS else [feature.value]
    value = "".join(words.get(each.lower(), each) for each in values)
    return replace(feature, name=name, value=value)


def _check_value(name: str, value: str) -> None:
    values = [each.strip() for each in value.split(",")] if name in _LISTS else [value]
    known = _VALUES.get(name)
    fits = _VALUE.fullmatch(value) and (known is None or all(_is_one(each, known) for each in values))
    if not fits:
        raise _invalid_features(
            f"The value '{value[:_SHOWN_CHARACTERS]}' for feature '{name}' is invalid. Allowed characters are English "
            "alphanumerical characters with spaces and commas. The length of the value cannot exceed "
            f"{VALUE_CHARACTERS_MAX} characters.",
            found=f"{name}={value[:_SHOWN_CHARACTERS]}",
            expected=" or ".join(known or ["letters, digits, spaces and commas"])
            + ", or both with a comma between" * (name in _LISTS),
        )


def _is_one(value: str, known: Sequence[str]) -> bool:
    return value.lower() in {each.lower() for each in known}


def _invalid_features(message: str, *, found: str, expected: str, hint: str = _HINT) -> InvalidInput:
    return InvalidInput(message, found=found, expected=expected, hint=hint, target=_TARGET)
