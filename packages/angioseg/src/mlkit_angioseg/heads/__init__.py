"""Heads that turn feature maps into vessel masks."""
