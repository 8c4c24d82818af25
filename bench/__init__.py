"""Benches: imgstore against its peers on real disks and a real MinIO. Run by `python -m bench`; imported by nothing.

`disks` makes the disks, `engines` starts one MinIO a region, `peers` runs the other programs, `installation` runs
imgstore through its command line, `cases` are the rows of the design's table of speeds, `results` keeps the figures
that `readme` puts into README.md.
"""
