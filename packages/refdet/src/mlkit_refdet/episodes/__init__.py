"""Reference photos and frames: reading, checking, sampling and batching them."""
