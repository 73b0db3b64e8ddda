"""What files and tables say of labels, models and groups: no torch, and nothing guessed."""
