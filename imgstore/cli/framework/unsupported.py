"""Options and commands of az that imgstore does not have. Each is refused by name, with exit code 2.

The lists follow azure-cli 2.91. A test removes an option or a command that imgstore gets.
"""

from collections.abc import Mapping
from typing import Final

import click

# A command with such an option of its own, as `image-version create` has --no-wait, reads the option before the refusal.
_EVERYWHERE: Final = frozenset({"--ids", "--no-wait", "--acquire-policy-token", "--change-reference"})

_OPTIONS: Final[Mapping[str, frozenset[str]]] = {
    "group create": frozenset({"--managed-by"}),
    "group delete": frozenset({"--force-deletion-types", "-f"}),
    "monitor activity-log list": frozenset(
        {
            "--caller", "--correlation-id", "--end-time", "--namespace", "--resource-provider", "--select",
            "--start-time", "--status",
        }
    ),
    "sig create": frozenset(
        {"--soft-delete-grace", "--soft-delete-grace-period", "--mi-system-assigned", "--mi-user-assigned"}
    ),
    "sig update": frozenset(
        {
            "--permissions", "--eula", "--public-name-prefix", "--publisher-contact", "--publisher-email",
            "--publisher-uri", "--soft-delete-grace", "--soft-delete-grace-period", "--mi-system-assigned",
            "--mi-user-assigned",
        }
    ),
    "sig image-version create": frozenset(
        {
            "--target-region-encryption",
            "--target-region-cvm-encryption",
            "--target-edge-zones", "--target-edge-zone-encryption", "--target-zone-encryption",
        }
    ),
    "sig image-version list-soft-deleted": frozenset({"--max-items", "--next-token", "--artifact-type"}),
    "sig image-version update": frozenset({"--target-edge-zones"}),
    "sig image-version wait": frozenset({"--expand"}),
    "disk create": frozenset(
        {
            "--size-gb", "-z", "--zone",
            "--encryption-type", "--disk-encryption-set", "--network-access-policy", "--public-network-access",
            "--for-upload",
            "--image-reference", "--image-reference-lun", "--max-shares", "--disk-access", "--disk-iops-read-write",
            "--disk-iops-read-only", "--disk-mbps-read-write", "--disk-mbps-read-only", "--tier", "--enable-bursting",
            "--logical-sector-size", "--architecture", "--accelerated-network", "--edge-zone", "--performance-plus",
            "--optimized-for-frequent-attach", "--security-type", "--secure-vm-disk-encryption-set",
            "--security-data-uri", "--data-access-auth-mode", "--support-hibernation", "--supported-security-option",
        }
    ),
    "snapshot create": frozenset(
        {
            "--size-gb", "-z", "--incremental", "--for-upload", "--copy-start", "--source-storage-account-id",
            "--encryption-type", "--disk-encryption-set", "--network-access-policy", "--public-network-access",
            "--disk-access", "--edge-zone", "--architecture", "--accelerated-network", "--elastic-san-resource-id",
            "--elastic-san-id", "--bandwidth-copy-speed", "--tier", "--instant-access-duration",
        }
    ),
    "vm create": frozenset(
        {
            "--accelerated-networking", "--accept-term", "--asgs", "--assign-identity",
            "--attach-disk", "--authentication-type", "--availability-set", "--boot-diagnostics-storage",
            "--capacity-reservation-group", "--count", "--data-disk-caching",
            "--data-disk-delete-option", "--data-disk-encryption-sets", "--data-disk-sizes-gb", "--disk-controller-type",
            "--edge-zone", "--enable-agent", "--enable-auto-update", "--enable-hibernation",
            "--enable-secure-boot", "--enable-vtpm", "--encryption-at-host", "--ephemeral-os-disk",
            "--eviction-policy", "--generate-ssh-keys", "--host", "--host-group", "--license-type", "--max-price",
            "--nic-delete-option", "--nics", "--nsg", "--nsg-rule", "--os-disk-caching", "--os-disk-delete-option",
            "--os-disk-encryption-set", "--os-disk-name", "--os-disk-size-gb", "--patch-mode",
            "--plan-promotion-code", "--platform-fault-domain", "--ppg", "--priority", "--private-ip-address", "--public-ip-address",
            "--public-ip-address-allocation", "--public-ip-address-dns-name", "--public-ip-sku", "--role", "--scope",
            "--secrets", "--security-type", "--source-disk", "--source-snapshot", "--ssh-dest-key-path",
            "--ssh-key-name", "--storage-account", "--storage-container-name", "--storage-sku",
            "--subnet", "--subnet-address-prefix", "--ultra-ssd-enabled", "--use-unmanaged-disk", "--user-data",
            "--v-cpus-available", "--v-cpus-per-core", "--validate", "--vmss", "--vnet-address-prefix", "--vnet-name",
            "--workspace", "--zone", "-z",
        }
    ),
    "vm show": frozenset({"--include-user-data"}),
    "vm list": frozenset({"--vmss"}),
    "vm delete": frozenset({"--force-deletion"}),
    "vmss create": frozenset(
        {
            "--accelerated-networking", "--accept-term", "--admin-password", "--app-gateway", "--asgs",
            "--assign-identity", "--authentication-type", "--automatic-repairs-grace-period", "--backend-pool-name",
            "--backend-port", "--capacity-reservation-group", "--data-disk-caching", "--data-disk-sizes-gb",
            "--disable-overprovision", "--dns-servers", "--edge-zone", "--encryption-at-host", "--ephemeral-os-disk",
            "--eviction-policy", "--generate-ssh-keys", "--health-probe", "--host-group", "--lb", "--lb-sku",
            "--license-type", "--load-balancer", "--max-price", "--nsg", "--orchestration-mode", "--os-disk-caching",
            "--os-disk-size-gb", "--os-type", "--patch-mode", "--platform-fault-domain-count", "--plan-name", "--ppg",
            "--priority", "--public-ip-address", "--public-ip-per-vm", "--role", "--scale-in-policy", "--scope",
            "--secrets", "--security-type", "--single-placement-group", "--specialized", "--storage-sku", "--subnet",
            "--ultra-ssd-enabled", "--user-data", "--validate", "--vm-domain-name", "--vnet-name", "--zones", "-z",
        }
    ),
    "vmss delete": frozenset({"--force-deletion"}),
    "vmss show": frozenset({"--instance-id", "--include-user-data"}),
    "image create": frozenset(
        {
            "--os-disk-caching", "--data-disk-caching", "--zone-resilient", "--edge-zone",
        }
    ),
}  # fmt: skip

_COMMANDS: Final[Mapping[str, frozenset[str]]] = {
    "": frozenset({"cloud", "login", "logout", "resource", "storage"}),
    "account": frozenset(
        {
            "alias", "clear", "get-access-token", "list-locations", "lock", "management-group", "set", "show",
            "subscription", "tenant",
        }
    ),
    "monitor": frozenset(
        {
            "account", "action-group", "alert-processing-rule", "autoscale", "data-collection", "diagnostic-settings",
            "log-analytics", "log-profiles", "metrics", "private-link-scope",
        }
    ),
    "monitor activity-log": frozenset({"alert", "list-categories"}),
    "group": frozenset({"exists", "export", "lock", "update", "wait"}),
    "sig": frozenset(
        {
            "gallery-application", "identity", "in-vm-access-control-profile", "in-vm-access-control-profile-version",
            "wait",
        }
    ),
    "sig share": frozenset({"wait"}),
    "sig image-definition": frozenset({"wait"}),
    "disk": frozenset({"config", "update", "wait"}),
    "snapshot": frozenset({"grant-access", "revoke-access", "update", "wait"}),
    "image": frozenset({"builder", "copy", "update", "wait"}),
    "vm": frozenset(
        {
            "application", "assess-patches", "auto-shutdown", "availability-set", "boot-diagnostics", "capture",
            "convert", "create-or-update", "diagnostics", "encryption", "extension",
            "host", "identity", "image", "install-patches", "list-ip-addresses",
            "list-sizes", "list-skus", "list-usage", "list-vm-resize-options", "monitor", "nic", "open-port",
            "perform-maintenance", "reapply", "redeploy", "reimage", "resize", "run-command", "secret",
            "simulate-eviction", "unmanaged-disk", "update", "user", "wait",
        }
    ),
    "vmss": frozenset(
        {
            "application", "create-or-update", "deallocate", "delete-instances", "diagnostics", "disk", "encryption",
            "extension", "get-instance-view", "get-os-upgrade-history", "identity", "list-instance-connection-info",
            "list-instance-public-ips", "list-skus", "nic", "perform-maintenance", "restart", "run-command",
            "set-orchestration-service-state", "simulate-eviction", "start", "stop", "update-domain-walk", "wait",
        }
    ),
    "vmss rolling-upgrade": frozenset({"start"}),
}  # fmt: skip


def refuse_option(ctx: click.Context, name: str) -> None:
    """Refuse option `name` of the command in `ctx` if az has the option.

    Raises:
        click.UsageError: az has the option.
    """
    command = _words(ctx)
    if name in _EVERYWHERE or name in _OPTIONS.get(command, ()):
        raise click.UsageError(f"{name} of 'az {command}' is not supported by imgstore.", ctx)


def refuse_command(ctx: click.Context, name: str) -> None:
    """Refuse command `name` of the group in `ctx` if az has the command.

    Raises:
        click.UsageError: az has the command.
    """
    group = _words(ctx)
    if name in _COMMANDS.get(group, ()):
        command = f"{group} {name}".strip()
        raise click.UsageError(f"'az {command}' is not supported by imgstore.", ctx)


def az_only_words() -> Mapping[str, frozenset[str]]:
    """Return the refused options and commands of each command. The key of the root is ""."""
    return {
        command: _OPTIONS.get(command, frozenset()) | _COMMANDS.get(command, frozenset())
        for command in {*_OPTIONS, *_COMMANDS}
    }


def _words(ctx: click.Context) -> str:
    """Return the words of the command in `ctx`, such as "sig image-version create"."""
    return ctx.command_path.partition(" ")[2] if ctx.parent else ""
