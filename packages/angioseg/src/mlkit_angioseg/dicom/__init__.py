"""X-ray angiography cines as hospitals store them (extra `dicom`)."""
