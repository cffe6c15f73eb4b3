"""Clusters of real processes, which are killed, stopped, paused and cut off while clients work, and what those were told held."""
