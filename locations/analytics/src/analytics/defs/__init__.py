"""What the location defines: the marts, and what keeps them up to date."""
