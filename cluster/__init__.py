"""Where bytes and processes live: Ray, storage, the commit. Knows nothing of images or models."""
