"""What a part of a run is worth: variants that differ in one axis, compared image by image."""
