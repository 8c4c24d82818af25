"""The seed of cloud-init."""

import email
import io
import json

import pycdlib
import yaml

from imgstore.hypervisor.seed import Seed, make_documents, write_seed

SEED = Seed(
    instance_id="6b0e0f3c-8c29-4a0a-8a51-0b4d0b1a0f00",
    host_name="web-1",
    user="ops",
    ssh_keys=["ssh-ed25519 AAAA ops@host", 'ssh-rsa BBBB "quoted": [x]\n- y'],
    password_hash="$6$salt$hash",
)


def test_the_image_has_the_label_and_the_files_of_nocloud() -> None:
    image = pycdlib.PyCdlib()
    image.open_fp(io.BytesIO(write_seed(SEED)))
    assert image.pvd.volume_identifier.strip() == b"cidata"
    for name, content in make_documents(SEED).items():
        for path in ("joliet_path", "rr_path"):
            found = io.BytesIO()
            image.get_file_from_iso_fp(found, **{path: f"/{name}"})
            assert found.getvalue() == content
    image.close()


def test_the_documents_are_yaml_and_no_value_changes_the_structure() -> None:
    documents = make_documents(SEED)
    assert json.loads(documents["meta-data"]) == {"instance-id": SEED.instance_id, "local-hostname": "web-1"}
    assert documents["user-data"].startswith(b"#cloud-config\n")
    (user,) = yaml.safe_load(documents["user-data"])["users"]
    assert (user["name"], user["passwd"], user["lock_passwd"]) == ("ops", "$6$salt$hash", False)
    assert user["ssh_authorized_keys"] == list(SEED.ssh_keys)


def test_without_a_password_the_user_is_locked_and_ssh_takes_keys_only() -> None:
    keys_only = Seed(instance_id="1", host_name="h", user="ops", ssh_keys=["ssh-ed25519 A"])
    config = yaml.safe_load(make_documents(keys_only)["user-data"])
    assert config["users"][0]["lock_passwd"] is True
    assert "passwd" not in config["users"][0]
    assert config["ssh_pwauth"] is False


def test_custom_data_are_a_further_part_with_the_same_bytes() -> None:
    custom = b"#!/bin/sh\necho \xff\x00 --==imgstore-seed==--\n"
    with_custom_data = Seed(instance_id="1", host_name="h", user="ops", custom_data=custom)
    message = email.message_from_bytes(make_documents(with_custom_data)["user-data"])
    _, ours, theirs = message.walk()
    assert ours.get_content_type() == "text/cloud-config"
    assert theirs.get_payload(decode=True) == custom
