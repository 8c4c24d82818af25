"""The revisions of the schema in order. A revision is written once and never changed."""
