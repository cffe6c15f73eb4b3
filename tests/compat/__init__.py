"""Clients that this project did not write, against any broker."""
