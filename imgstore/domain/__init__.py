"""Values and pure rules of the gallery, without input and output."""
