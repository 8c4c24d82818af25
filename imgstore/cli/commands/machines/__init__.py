"""Commands about disks, snapshots, images and machines."""
