"""The same evidence for anybody's models: files in, gains by subgroup out. No torch."""
