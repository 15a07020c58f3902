"""Reference sets: photos of objects, encoded once, as a file."""
