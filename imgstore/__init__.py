"""imgstore: a self-hosted VM image gallery with the semantics of Azure's Shared Image Gallery.

The paper of the project, words, bytes at rest and promises, is ``DESIGN.md`` beside this file.
"""

__version__ = "0.1.0"
