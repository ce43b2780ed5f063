"""The embedded world: a scene grammar, its renderer and oracle, and models trained on it."""
