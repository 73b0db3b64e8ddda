"""The same evidence for the models of anybody: files in, gains by subgroup out. No torch."""
