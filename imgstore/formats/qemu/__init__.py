"""Reads qcow2, VHDX and VMDK through qemu-img, after the checks of this package."""
