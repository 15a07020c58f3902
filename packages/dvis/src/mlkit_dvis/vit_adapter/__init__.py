"""DINOv2 ViT with ViT-Adapter: a frozen ViT read at four depths by a trained pyramid."""

from __future__ import annotations

from mlkit_dvis.vit_adapter.adapter import ViTAdapter

__all__ = ["ViTAdapter"]
