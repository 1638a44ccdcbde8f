"""Multiruns: several jobs of one command line, in one store."""
