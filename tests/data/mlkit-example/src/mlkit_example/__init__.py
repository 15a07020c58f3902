"""A third-party mlkit plugin: one encoder and one loss."""
