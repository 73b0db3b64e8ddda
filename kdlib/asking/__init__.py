"""What can be audited beside files: runs on record, models in memory, networks on images."""
