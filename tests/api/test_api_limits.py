"""Test each limit and enumeration of Azure: the last value inside is accepted, and the first value outside is refused.

Sources are in docs/azure.md. Tags have tests of their own (test_api_tags.py).
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest
from api_server import Answer, Api, definition_body, start_api, version_body

from tests.support.http_server import Page, WebServer, start_web
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import GROUP

HERE: Final = "southcentralus"
INVALID: Final = "InvalidParameter"
INT_MAX: Final = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A server with a gallery and a definition, and a disk behind a URL."""

    api: Api
    web: WebServer
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def fresh(self, word: str) -> str:
        return f"{word}{next(self.numbers)}"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder: Path = tmp_path_factory.mktemp("limits")
    pages = {
        f"/{name}.raw": Page(
            body=make_raw(folder / name, seed=seed, virtual_bytes=8 << 20, content_bytes=1 << 20).read_bytes()
        )
        for seed, name in enumerate(("disk", "data"))
    }
    with start_web(pages) as web, start_api(folder / "home", rate_limit_factor=0) as api:
        api.found()
        yield Stage(api=api, web=web)


Send = Callable[[Stage, Any], Answer]


def gallery(change: Callable[[Any], Any]) -> Send:
    """Return a PUT of a new gallery with a value in its body."""

    def send(stage: Stage, value: Any) -> Answer:
        path = f"{stage.api.compute}/galleries/{stage.fresh('g')}"
        return stage.api.ask("PUT", path, {"location": HERE, **change(value)}, version="2026-03-03")

    return send


def gallery_name(stage: Stage, name: str) -> Answer:
    return stage.api.ask("PUT", f"{stage.api.compute}/galleries/{name}", {"location": HERE})


def definition(change: Callable[[Any], Any], version: str = "2024-03-03") -> Send:
    """Return a PUT of a new definition with properties that contain a value."""

    def send(stage: Stage, value: Any) -> Answer:
        name = stage.fresh("d")
        body = definition_body(identifier={"publisher": "p", "offer": "o", "sku": name})
        body["properties"] |= change(value)
        return stage.api.ask("PUT", f"{stage.api.gallery}/images/{name}", body, version=version)

    return send


def definition_name(stage: Stage, name: str) -> Answer:
    body = definition_body(identifier={"publisher": "p", "offer": "o", "sku": stage.fresh("s")})
    return stage.api.ask("PUT", f"{stage.api.gallery}/images/{name}", body)


def identifier(part: str) -> Send:
    return definition(lambda value: {"identifier": {"publisher": "p", "offer": "o", "sku": "s", part: value}})


def recommended(name: str, end: str) -> Send:
    return definition(lambda value: {"recommended": {name: {end: value}}})


def feature(name: str, generation: str = "V2") -> Send:
    return definition(lambda value: {"hyperVGeneration": generation, "features": [{"name": name, "value": value}]})


def image_version(change: Callable[[Any, Any], None], version: str = "2024-03-03") -> Send:
    """Return a PUT of a new version. `change` puts a value into the body."""

    def send(stage: Stage, value: Any) -> Answer:
        body = version_body(stage.web.url("/disk.raw"))
        change(body["properties"], value)
        path = stage.api.version(f"1.0.{next(stage.numbers)}")
        return stage.api.ask("PUT", path, body, version=version)

    return send


def version_name(stage: Stage, name: str) -> Answer:
    return stage.api.ask("PUT", stage.api.version(name), version_body(stage.web.url("/disk.raw")))


def target(change: Callable[[Any], Any]) -> Send:
    def put(properties: Any, value: Any) -> None:
        properties["publishingProfile"]["targetRegions"] = change(value)

    return image_version(put)


def profile(name: str) -> Send:
    return image_version(lambda properties, value: properties["publishingProfile"].update({name: value}))


def luns(stage: Stage, value: Any) -> Answer:
    """Send a version with a data disk at each LUN."""
    source = {"source": {"uri": stage.web.url("/data.raw")}}

    def put(properties: Any, value: Any) -> None:
        properties["storageProfile"]["dataDiskImages"] = [{"lun": lun, **source} for lun in value]

    return image_version(put)(stage, value)


def os_caching(properties: Any, value: Any) -> None:
    properties["storageProfile"]["osDiskImage"]["hostCaching"] = value


def share(stage: Stage, body: Any) -> Answer:
    """Share a new gallery."""
    path = f"{stage.api.compute}/galleries/{stage.fresh('shared')}"
    assert stage.api.ask("PUT", path, {"location": HERE}).status == 201
    return stage.api.ask("POST", f"{path}/share", body)


def members(kind: str, ids: int) -> Any:
    listed = [f"{number:08d}-1111-1111-1111-111111111111" for number in range(ids)]
    return {"operationType": "Add", "groups": [{"type": kind, "ids": listed}]}


def group_name(stage: Stage, name: str) -> Answer:
    return stage.api.ask("PUT", f"{stage.api.top}/resourceGroups/{name}", {"location": HERE})


def grant(stage: Stage, body: Any) -> Answer:
    path = f"{stage.api.compute}/disks/{stage.fresh('up')}"
    upload = {
        "location": HERE,
        "properties": {"creationData": {"createOption": "Upload", "uploadSizeBytes": 20_972_032}},
    }
    assert stage.api.ask("PUT", path, upload).status == 202
    return stage.api.ask("POST", f"{path}/beginGetAccess", body)


def imported_disk(change: Callable[[Any], Any]) -> Send:
    """Return a PUT of a new disk from a URL, with a value in the body."""
    return lambda stage, value: imported(stage, "disks", stage.fresh("disk"), change(value))


def imported(stage: Stage, kind: str, name: str, more: Any = None) -> Answer:
    """Import a disk or a snapshot from a URL."""
    body = {"location": HERE, **(more or {})}
    creation = {"createOption": "Import", "sourceUri": stage.web.url("/disk.raw")}
    body["properties"] = {"creationData": creation, **body.get("properties", {})}
    return stage.api.ask("PUT", f"{stage.api.compute}/{kind}/{name}", body)


def managed_image(stage: Stage, name: str) -> Answer:
    disk = {"osType": "Linux", "osState": "Generalized", "blobUri": stage.web.url("/disk.raw")}
    body = {"location": HERE, "properties": {"storageProfile": {"osDisk": disk}}}
    return stage.api.ask("PUT", f"{stage.api.compute}/images/{name}", body)


def machine(stage: Stage, name: str) -> Answer:
    """Create a machine from a new disk."""
    made = imported(stage, "disks", stage.fresh("os"))
    stage.api.await_end(made)
    disk = {"createOption": "Attach", "managedDisk": {"id": f"{stage.api.compute}/disks/{made.body['name']}"}}
    body = {"location": HERE, "properties": {"storageProfile": {"osDisk": disk}}}
    return stage.api.ask("PUT", f"{stage.api.compute}/virtualMachines/{name}", body)


def network(kind: str) -> Send:
    def send(stage: Stage, name: str) -> Answer:
        path = f"{stage.api.top}/resourceGroups/{GROUP}/providers/Microsoft.Network/{kind}/{name}"
        return stage.api.ask("PUT", path, {"location": HERE, "properties": {}}, version="2022-01-01")

    return send


def deployment(stage: Stage, name: str) -> Answer:
    schema = "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#"
    template = {"$schema": schema, "contentVersion": "1.0.0.0", "resources": []}
    path = f"{stage.api.top}/resourceGroups/{GROUP}/providers/Microsoft.Resources/deployments/{name}"
    return stage.api.ask(
        "PUT", path, {"properties": {"mode": "Incremental", "template": template}}, version="2021-04-01"
    )


def upload(stage: Stage, length: Any) -> Answer:
    creation = {"createOption": "Upload", "uploadSizeBytes": length}
    path = f"{stage.api.compute}/disks/{stage.fresh('size')}"
    return stage.api.ask("PUT", path, {"location": HERE, "properties": {"creationData": creation}})


def community(part: str) -> Send:
    def put(value: Any) -> Any:
        info = {
            "publisherUri": "https://a.example", "publisherContact": "a@a.example", "eula": "e",
            "publicNamePrefix": "contoso", part: value,
        }  # fmt: skip
        return {"properties": {"sharingProfile": {"permissions": "Community", "communityGalleryInfo": info}}}

    return gallery(put)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A limit of Azure, with values inside and outside."""

    send: Send
    inside: tuple[Any, ...]
    outside: tuple[Any, ...]
    message: str
    """A part of the message of Azure, or of imgstore where Azure's message is unknown."""
    code: str = INVALID
    status: int = 400


RANGE: Final = "is out of range"
VALUE: Final = "is invalid"
LIMITS: Final[dict[str, Limit]] = {
    "gallery name": Limit(
        send=gallery_name,
        inside=("g" * 80, "a.b_c", "0", "G9"),
        outside=("g" * 81, "a-b", "_a", "a_", ".a", "a.", "a!b"),
        message="Gallery name is invalid. Allowed characters are English alphanumeric characters",
    ),
    "retention": Limit(
        send=gallery(lambda value: {"properties": {"softDeletePolicy": {"retentionPeriodInDays": value}}}),
        inside=(1, 365), outside=(0, 366, -1), message=RANGE,
    ),
    "sharing permission": Limit(
        send=gallery(lambda value: {"properties": {"sharingProfile": {"permissions": value}}}),
        inside=("Private", "groups"), outside=("Public", "", 1), message=VALUE,
    ),
    "public name prefix": Limit(
        send=community("publicNamePrefix"),
        inside=("conto", "c" * 16), outside=("cont", "c" * 17, "con-toso"), message="prefix is invalid",
    ),
    "definition name": Limit(
        send=definition_name,
        inside=("d" * 80, "a.b_c-d", "0", "a_"),
        outside=("d" * 81, "_a", "-a", "a-", "a.", "a!b"),
        message="name is invalid",
    ),
    "publisher": Limit(
        send=identifier("publisher"), inside=("p" * 128, "a.b-c_d", "-"), outside=("p" * 129, "a.", "a b", "é", ""),
        message="",
    ),
    "offer": Limit(send=identifier("offer"), inside=("o" * 64,), outside=("o" * 65, "a.", "a/b"), message="offer"),
    "sku": Limit(send=identifier("sku"), inside=("s" * 64,), outside=("s" * 65, "a.", "a+b"), message="sku"),
    "os type": Limit(
        send=definition(lambda value: {"osType": value}), inside=("Windows", "linux"), outside=("BSD", "", 1),
        message="",
    ),
    "os state": Limit(
        send=definition(lambda value: {"osState": value}),
        inside=("Specialized", "generalized"), outside=("Sealed",), message=VALUE,
    ),
    "generation": Limit(
        send=definition(lambda value: {"hyperVGeneration": value}), inside=("V1", "v2"), outside=("V3", "1"), message=VALUE
    ),
    "architecture": Limit(
        send=definition(lambda value: {"architecture": value}),
        inside=("x64", "arm64"), outside=("x86", "riscv"), message=VALUE,
    ),
    "disallowed disk types": Limit(
        send=definition(lambda value: {"disallowed": {"diskTypes": value}}),
        inside=(
            [
                *("Standard_LRS", "Standard_ZRS", "StandardSSD_LRS", "StandardSSD_ZRS", "Premium_LRS", "Premium_ZRS"),
                *("PremiumV2_LRS", "UltraSSD_LRS"),
            ],
            ["premium_lrs"],
            [],
        ),
        outside=(["Floppy"], ["Premium_LRS", "x"], "Premium_LRS", [1]), message="",
    ),
    **{
        f"recommended {name} {end}": Limit(
            send=recommended(name, end), inside=(1, INT_MAX), outside=(0, -1, INT_MAX + 1, "x", 1.5), message=""
        )
        for name in ("vCPUs", "memory")
        for end in ("min", "max")
    },
    "recommended range": Limit(
        send=definition(lambda value: {"recommended": {"memory": dict(zip(("min", "max"), value, strict=True))}}),
        inside=((4, 4), (1, 4)), outside=((5, 4),), message="is greater than the value 4",
    ),
    "end of life of a definition": Limit(
        send=definition(lambda value: {"endOfLifeDate": value}),
        inside=("2999-01-01", "2999-01-01T00:00:00Z"), outside=("2020-01-01",),
        message="EndOfLifeDate must be set to a future date.",
    ),
    "date": Limit(
        send=definition(lambda value: {"endOfLifeDate": value}),
        inside=("9998-12-31",), outside=("soon", "2090-02-30", "9999-12-31"), message="is not a date",
    ),
    "security type": Limit(
        send=feature("SecurityType"),
        inside=(
            *("TrustedLaunch", "TrustedLaunchSupported", "ConfidentialVM", "ConfidentialVMSupported"),
            *("TrustedLaunchAndConfidentialVmSupported", "Standard", "trustedlaunch"),
        ),
        outside=("A", "", "TrustedLaunch, ConfidentialVM"),
        message="for feature 'SecurityType' is invalid. Allowed characters are English alphanumerical characters",
    ),
    "security type of generation V1": Limit(
        send=feature("securitytype", "V1"), inside=("Standard",), outside=("TrustedLaunchSupported", "ConfidentialVM"),
        message="needs the Hyper-V generation V2",
    ),
    "flag feature": Limit(
        send=feature("IsHibernateSupported"), inside=("True", "false"), outside=("yes", "1"),
        message="for feature 'IsHibernateSupported' is invalid",
    ),
    "disk controllers": Limit(
        send=feature("DiskControllerTypes"), inside=("SCSI", "SCSI, NVMe", "nvme"), outside=("IDE", "SCSI NVMe", "SCSI,"),
        message="for feature 'DiskControllerTypes' is invalid",
    ),
    "value of a feature": Limit(
        send=feature("NewFeature"), inside=("v" * 100, "a, b 1"), outside=("v" * 101, "a-b", "é", ""),
        message="The length of the value cannot exceed 100 characters.",
    ),
    "name of a feature": Limit(
        send=definition(lambda value: {"features": [{"name": value, "value": "x"}]}),
        inside=("Abc1",), outside=("", "a b", "a=b"), message="features of an image definition are invalid",
    ),
    "repeated feature": Limit(
        send=definition(lambda value: {"features": [{"name": each, "value": "True"} for each in value]}),
        inside=(["IsHibernateSupported", "IsAcceleratedNetworkSupported"],),
        outside=(["IsHibernateSupported", "isHibernateSupported"],),
        message="features of an image definition are invalid",
    ),
    "first version of a feature": Limit(
        send=definition(lambda value: {"features": [{"name": "A", "value": "x", "startsAtVersion": value}]}),
        inside=("1.0.0",), outside=("1.0", "latest"), message="startsAtVersion",
    ),
    "version name": Limit(
        send=version_name,
        inside=(f"{INT_MAX}.0.{INT_MAX}", "0.0.0"),
        outside=(f"{INT_MAX + 1}.0.0", "1.0", "1.0.0.0", "-1.0.0", "01.0.0", "1.0.x", "v1.0.0", "%C2%B2.0.0"),
        message="The image version name should follow Major(int).Minor(int).Patch(int) format",
    ),
    "regional replica count": Limit(
        send=target(lambda value: [{"name": HERE, "regionalReplicaCount": value}]),
        inside=(1, 10, "10"), outside=(0, 11, -1, INT_MAX), message=RANGE,
    ),
    "kind of a replica count": Limit(
        send=target(lambda value: [{"name": HERE, "regionalReplicaCount": value}]),
        inside=(None,), outside=("x", 1.0, True, INT_MAX + 1, "\N{ARABIC-INDIC DIGIT THREE}"), message=VALUE,
    ),
    "replica count": Limit(
        send=profile("replicaCount"), inside=(1, 10, "10"), outside=(0, 11, INT_MAX), message=RANGE
    ),
    "disk name": Limit(
        send=lambda stage, name: imported(stage, "disks", name),
        inside=("d" * 80, "a.b_c-d", "0", "a_"), outside=("d" * 81, "_a", "-a", "a-", "a.", "a!b"),
        message="expected: 1 to 80 letters",
    ),
    "snapshot name": Limit(
        send=lambda stage, name: imported(stage, "snapshots", name),
        inside=("s" * 80, "a_"), outside=("s" * 81, "_a", "a-", "a."), message="expected: 1 to 80 letters",
    ),
    "image name": Limit(
        send=managed_image, inside=("i" * 80, "a_"), outside=("i" * 81, "_a", "a-", "a."),
        message="expected: 1 to 80 letters",
    ),
    "machine name": Limit(
        send=machine, inside=("m" * 64, "a.b_c-d"), outside=("m" * 65, "_a", "a-", "a.", "a!b"),
        message="expected: 1 to 64 letters",
    ),
    **{
        f"name in {kind}": Limit(
            send=network(kind), inside=("n" * 80, "a.b-c_"), outside=("n" * 81, "_a", "a-", "a."),
            message="expected: 1 to 80 letters",
        )
        for kind in ("virtualNetworks", "networkSecurityGroups", "publicIPAddresses", "loadBalancers", "networkInterfaces")
    },
    "deployment name": Limit(
        send=deployment, inside=("d" * 64, "a.b-c_(d)"), outside=("d" * 65, "a!b"), message="deployment name is invalid",
        code="InvalidDeploymentName",
    ),
    "size of a disk": Limit(
        send=imported_disk(lambda value: {"properties": {"diskSizeGB": value}}),
        inside=(1, None), outside=(0, -1, 2, "x", 1.5, INT_MAX + 1), message="",
    ),
    "type of a disk": Limit(
        send=imported_disk(lambda value: {"sku": {"name": value}}),
        inside=("Standard_LRS", "standard_lrs", "Premium_LRS"), outside=("UltraSSD_LRS", "x"), message=VALUE,
    ),
    "os type of a disk": Limit(
        send=imported_disk(lambda value: {"properties": {"osType": value}}),
        inside=("linux", "Windows"), outside=("BSD", "", 1), message=VALUE,
    ),
    "generation of a disk": Limit(
        send=imported_disk(lambda value: {"properties": {"hyperVGeneration": value}}),
        inside=("v1", "V2"), outside=("V3", ""), message=VALUE,
    ),
    "id of a member": Limit(
        send=lambda stage, ids: share(
            stage, {"operationType": "Add", "groups": [{"type": "Subscriptions", "ids": ids}]}
        ),
        inside=(["11111111-1111-1111-1111-111111111111"],), outside=(["x"], [""], [], [1], "x", None), message="",
    ),
    "storage account type": Limit(
        send=profile("storageAccountType"), inside=("Standard_LRS", "standard_zrs", "Premium_LRS"),
        outside=("Standard_GRS", "", 1), message="is not a storage account type",
    ),
    "storage account type of a region": Limit(
        send=target(lambda value: [{"name": HERE, "storageAccountType": value}]),
        inside=("Premium_LRS",), outside=("UltraSSD_LRS",), message="is not a storage account type",
    ),
    "target regions": Limit(
        send=target(lambda value: [{"name": each} for each in value]),
        inside=([HERE, "West US 2"],), outside=([HERE, "South Central US"],),
        message="Duplicate regions are not allowed in target publishing regions.",
    ),
    "source region": Limit(
        send=target(lambda value: [{"name": each} for each in value]),
        inside=(["eastus", HERE],), outside=(["eastus"],), message="must contain the location of image version",
    ),
    "unknown region": Limit(
        send=target(lambda value: [{"name": each} for each in value]),
        inside=([HERE],), outside=([HERE, "atlantis"],), message="atlantis",
    ),
    "replication mode": Limit(
        send=profile("replicationMode"), inside=("Full", "full"), outside=("Deep", ""), message=VALUE
    ),
    "end of life of a version": Limit(
        send=profile("endOfLifeDate"), inside=("2999-01-01",), outside=("2020-01-01",),
        message="EndOfLifeDate must be set to a future date.",
    ),
    "caching": Limit(
        send=image_version(os_caching), inside=("None", "readonly", "ReadWrite"), outside=("Write", ""), message=VALUE
    ),
    "members of a shared gallery": Limit(
        send=share, inside=(members("Subscriptions", 30), members("AADTenants", 5)),
        outside=(members("Subscriptions", 31), members("AADTenants", 6)),
        message="A gallery can be shared with at most", code="QuotaExceeded", status=409,
    ),
    "kind of members": Limit(
        send=share, inside=(members("subscriptions", 1),), outside=(members("Users", 1), members("Community", 1)),
        message="",
    ),
    "kind of sharing": Limit(
        send=share, inside=(members("Subscriptions", 1),), outside=({"operationType": "Publish"}, {}), message=""
    ),
    "group name": Limit(
        send=group_name, inside=("g" * 90, "a.b-c_d(e)"), outside=("g" * 91, "a.", "a%2Bb"), message="name is invalid"
    ),
    "duration of access": Limit(
        send=lambda stage, value: grant(stage, {"access": "Write", "durationInSeconds": value}),
        inside=(60,), outside=(0, -1, INT_MAX + 1), message="",
    ),
    "kind of access": Limit(
        send=lambda stage, value: grant(stage, {"access": value, "durationInSeconds": 60}),
        inside=("write",), outside=("Delete", ""), message=VALUE,
    ),
    "size of an upload": Limit(
        send=upload, inside=(20_972_032, 1024), outside=(512, 1023, 1 << 50), message=""
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LIMITS)
def test_the_limit(stage: Stage, name: str) -> None:
    limit = LIMITS[name]
    for value in limit.inside:
        answer = limit.send(stage, value)
        assert answer.status < 300, (value, answer)
    for value in limit.outside:
        answer = limit.send(stage, value)
        assert (answer.status, answer.code) == (limit.status, limit.code), (value, answer)
        assert limit.message in answer.body["error"]["message"], (value, answer)


@pytest.mark.parametrize("lun", [0, 63, "63"])
def test_the_disk_at_the_last_lun_is_stored(stage: Stage, lun: Any) -> None:
    answer = luns(stage, [lun])
    assert answer.status == 201, answer
    assert stage.api.await_end(answer)["status"] == "Succeeded"
    path = f"{stage.api.definition}/versions/{answer.body['name']}"
    (disk,) = stage.api.ask("GET", path).body["properties"]["storageProfile"]["dataDiskImages"]
    assert disk["lun"] == int(lun)


def test_wrong_luns_of_data_disks(stage: Stage) -> None:
    for value, text in (
        ([64], RANGE),
        ([-1], RANGE),
        ([3, 3], "duplicate LUNs"),
        (["x"], VALUE),
        ([True], VALUE),
        (["\N{ARABIC-INDIC DIGIT THREE}"], VALUE),
        ([None], "is missing"),
    ):
        answer = luns(stage, value)
        assert (answer.status, answer.code) == (400, INVALID), (value, answer)
        assert text in answer.body["error"]["message"], (value, answer)


def test_publisher_offer_and_sku_are_unique_in_a_gallery_without_case(stage: Stage) -> None:
    body = definition_body(identifier={"publisher": "Same", "offer": "o", "sku": "s"})
    assert stage.api.ask("PUT", f"{stage.api.gallery}/images/first", body).status == 201
    body["properties"]["identifier"] = {"publisher": "sAME", "offer": "O", "sku": "S"}
    answer = stage.api.ask("PUT", f"{stage.api.gallery}/images/second", body)
    assert (answer.status, answer.code) == (409, "Conflict")
    assert "Choose a different publisher, offer, sku combination." in answer.body["error"]["message"]


# -- limits of settings.toml -------------------------------------------------------------------------------------------


def test_counts_and_sizes_end_at_the_limits_of_the_settings(tmp_path: Path) -> None:
    """The last resource and the largest disk inside a limit are accepted, and the next are refused."""
    size = 8 << 20
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "settings.toml").write_text(
        "[limits]\ngalleries_max = 2\ndefinitions_max = 2\nversions_max = 1\n"
        f"image_bytes_max = {size}\ndata_disk_bytes_max = {size}\n"
    )
    pages = {
        f"/{name}.raw": Page(
            body=make_raw(
                tmp_path / name, seed=len(name), virtual_bytes=virtual_bytes, content_bytes=1 << 20
            ).read_bytes()
        )
        for name, virtual_bytes in (("os", size), ("data", size), ("larger", size + 512))
    }
    with start_web(pages) as web, start_api(tmp_path / "home", rate_limit_factor=0) as api:
        api.found()
        stage = Stage(api=api, web=web)

        def version(name: str, os: str, data: str) -> Answer:
            body = version_body(web.url(f"/{os}.raw"))
            source = {"uri": web.url(f"/{data}.raw")}
            body["properties"]["storageProfile"]["dataDiskImages"] = [{"lun": 63, "source": source}]
            return api.ask("PUT", api.version(name), body)

        for os, data in (("larger", "data"), ("os", "larger")):
            refused = version("0.0.1", os, data)
            error = refused.body["error"] if refused.status >= 400 else api.await_end(refused)["error"]
            assert f"exceeds the limit of {size} bytes" in error["message"], (os, data, error)
        sizes = ("os", "data")
        made = version("0.0.1", *sizes)
        assert made.status < 300, made
        assert api.await_end(made)["status"] == "Succeeded"
        for answer in (gallery_name(stage, "second"), definition_name(stage, "second")):
            assert answer.status == 201, answer
        for answer in (gallery_name(stage, "third"), definition_name(stage, "third"), version("1.0.0", *sizes)):
            assert (answer.status, answer.code) == (409, "QuotaExceeded"), answer
            assert "in a subscription and region is reached" in answer.body["error"]["message"]


# -- one check for each way in ----------------------------------------------------------------------------------------


def ways(stage: Stage, properties: Any) -> Iterator[Answer]:
    """Send properties of a definition by PUT of a new and of an existing definition, by PATCH and in a template."""
    yield definition(lambda _value: properties)(stage, None)
    name = stage.fresh("d")
    body = definition_body(identifier={"publisher": "p", "offer": "o", "sku": name}, hyperVGeneration="V2")
    path = f"{stage.api.gallery}/images/{name}"
    assert stage.api.ask("PUT", path, body, version="2024-03-03").status == 201
    more = {"allowUpdateImage": True} if "features" in properties else {}
    changed = body | {"properties": body["properties"] | more | properties}
    yield stage.api.ask("PUT", path, changed, version="2024-03-03")
    yield stage.api.ask("PATCH", path, {"properties": more | properties}, version="2024-03-03")
    resource = {
        "type": "Microsoft.Compute/galleries/images", "apiVersion": "2024-03-03", "location": HERE,
        "name": f"{stage.api.gallery.rpartition('/')[2]}/{stage.fresh('d')}",
        "properties": definition_body(identifier={"publisher": "p", "offer": "t", "sku": name})["properties"] | properties,
    }  # fmt: skip
    schema = "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#"
    template = {"$schema": schema, "contentVersion": "1.0.0.0", "resources": [resource]}
    deployments = f"{stage.api.top}/resourceGroups/{GROUP}/providers/Microsoft.Resources/deployments"
    deployment = {"properties": {"mode": "Incremental", "template": template}}
    yield stage.api.ask("PUT", f"{deployments}/{stage.fresh('t')}", deployment, version="2021-04-01")


@pytest.mark.parametrize(
    ("properties", "text"),
    [
        ({"endOfLifeDate": "2020-01-01"}, "EndOfLifeDate must be set to a future date."),
        ({"recommended": {"vCPUs": {"min": 9, "max": 8}}}, "is greater than the value 8"),
        ({"recommended": {"memory": {"max": 0}}}, RANGE),
        ({"features": [{"name": "SecurityType", "value": "A"}]}, "for feature 'SecurityType' is invalid"),
        ({"features": [{"name": "A", "value": "x"}, {"name": "a", "value": "x"}]}, "features of an image definition"),
    ],
)
def test_each_way_in_has_the_limit(stage: Stage, properties: Any, text: str) -> None:
    for answer in ways(stage, properties):
        found = answer
        if "azure-asyncoperation" in answer.headers:
            error = stage.api.await_end(answer)["error"]
            assert text in json.dumps(error), error
        else:
            assert found.status == 400, found
            assert text in json.dumps(found.body), found


def test_each_way_to_a_version_has_the_limit_of_replicas(stage: Stage) -> None:
    made = image_version(lambda properties, value: None)(stage, None)
    assert stage.api.await_end(made)["status"] == "Succeeded"
    path = f"{stage.api.definition}/versions/{made.body['name']}"
    present = stage.api.ask("GET", path).body
    for count_, text in ((0, RANGE), (11, RANGE), (INT_MAX, RANGE), (INT_MAX + 1, VALUE)):
        regions = [{"name": HERE, "regionalReplicaCount": count_}]
        for change in ({"replicaCount": count_}, {"targetRegions": regions}):
            profile_ = {"publishingProfile": change}
            for method, body in (
                ("PUT", present | {"properties": present["properties"] | profile_}),
                ("PATCH", {"properties": profile_}),
            ):
                answer = stage.api.ask(method, path, body)
                assert (answer.status, answer.code) == (400, INVALID), (method, change, answer)
                assert text in answer.body["error"]["message"], (method, change, answer)


# -- purchase plans ---------------------------------------------------------------------------------------------------

PLAN: Final = {"name": "n", "publisher": "p", "product": "q"}


@pytest.mark.parametrize(
    ("image", "machine", "code"),
    [
        (PLAN, PLAN, None),
        (PLAN, {"name": "N", "publisher": "P", "product": "Q", "promotionCode": "x"}, None),
        (PLAN, None, "VMMarketplaceInvalidInput"),
        (PLAN, PLAN | {"product": "other"}, "VMMarketplaceInvalidInput"),
        (PLAN, {"name": "n"}, "VMMarketplaceInvalidInput"),
        (None, None, None),
        (None, PLAN, None),
    ],
)
def test_a_machine_names_the_plan_of_its_image(stage: Stage, image: Any, machine: Any, code: str | None) -> None:
    api, name = stage.api, stage.fresh("plan")
    body = definition_body(
        identifier={"publisher": "p", "offer": "o", "sku": name}, osState="Specialized", purchasePlan=image
    )
    path = f"{api.gallery}/images/{name}"
    assert api.ask("PUT", path, body).status == 201
    made = api.ask("PUT", f"{path}/versions/1.0.0", version_body(stage.web.url("/disk.raw")))
    assert api.await_end(made)["status"] == "Succeeded"
    disk = {"createOption": "FromImage"}
    properties = {"storageProfile": {"imageReference": {"id": path}, "osDisk": disk}}
    machine_path = f"{api.compute}/virtualMachines/{stage.fresh('vm')}"
    answer = api.ask("PUT", machine_path, {"location": HERE, "plan": machine, "properties": properties})
    if code is None:
        assert answer.status < 300, answer
        assert api.ask("GET", machine_path).body.get("plan") == machine
        return
    assert (answer.status, answer.code) == (400, code), answer
    assert "requires Plan information in the request" in answer.body["error"]["message"]
    assert api.ask("GET", machine_path).status == 404
