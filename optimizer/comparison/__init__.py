"""Two runs side by side: what changed, by how much, beyond doubt or not, and what explains it."""
