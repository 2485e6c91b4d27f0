"""Arithmetic as it stands in prose: tokens, calculations, the sides of an equation."""
