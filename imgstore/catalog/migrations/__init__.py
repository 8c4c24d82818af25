"""How a catalog comes from one revision to the next. Revisions are written once and never changed."""
