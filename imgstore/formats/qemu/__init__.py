"""Read qcow2, VHDX and VMDK through qemu-img, after checks of our own."""
