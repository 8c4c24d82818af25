"""Store resources: groups, galleries, definitions, versions, disks and machines."""
