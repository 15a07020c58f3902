"""Clips of annotated videos: files, sampling, augmentation, batches."""
