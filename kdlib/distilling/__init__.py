"""Students of one's own images and teacher, and whom their distillation hurt."""
