"""What is run, and what it leaves behind: studies as grids, images, runs, records."""
