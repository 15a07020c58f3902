"""Losses: detection, contrast on fused maps, contrast of regions with prototypes."""
