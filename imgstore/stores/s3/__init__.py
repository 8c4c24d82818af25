"""Store objects in S3 buckets. The only package that imports botocore."""
