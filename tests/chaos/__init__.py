"""What a broker has to survive: killed processes, cut power, hostile bytes, a store that fails."""
