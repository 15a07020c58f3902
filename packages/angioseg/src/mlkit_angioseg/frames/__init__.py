"""Angiogram frames: tables, pixels, augmentation and the data component."""
