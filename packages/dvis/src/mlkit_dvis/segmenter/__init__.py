"""The segmenter: a Mask2Former that sees one frame at a time."""
