"""YOLOv8's backbone and neck, as modules; `adapter` alone imports ultralytics (AGPL-3.0)."""
