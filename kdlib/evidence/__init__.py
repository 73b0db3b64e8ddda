"""What the records say: numbers with intervals, findings, verdicts."""
