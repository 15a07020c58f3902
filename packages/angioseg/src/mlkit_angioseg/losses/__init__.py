"""Losses of vessel masks beyond core's cross-entropy, Dice and focal loss."""
