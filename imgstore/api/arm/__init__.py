"""Serve Azure Resource Manager's routes: galleries, disks, machines, networks and deployments."""
