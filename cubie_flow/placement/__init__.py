"""Placements of buffers: comparing them and choosing one."""
