"""The fusion in which query images and reference photos meet."""
