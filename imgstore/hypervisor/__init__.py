"""Run machines in QEMU: command lines, the monitor, the seed of cloud-init, and the probe of KVM.

The package gets values and starts processes. It knows no catalog and no store.
"""
