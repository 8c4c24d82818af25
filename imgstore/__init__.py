"""imgstore: a self-hosted VM image gallery with the semantics of Azure's Shared Image Gallery.

The file ``DESIGN.md`` in this folder describes the terms, the stored formats and the guarantees.
"""

__version__ = "0.1.0"
