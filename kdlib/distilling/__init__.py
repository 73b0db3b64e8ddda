"""Students of people's own images and teachers, and whom they hurt: one command, torch alone."""
