"""What keeps a run: its folder, its checkpoints, what it tells, and how it ends."""
