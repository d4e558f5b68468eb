"""All of Shoal on one machine: as child processes, or inside the caller's process."""
