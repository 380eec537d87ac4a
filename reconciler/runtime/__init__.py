"""What every daemon here needs and no GPU is mentioned in: files, locks, watching, waking, looping, telling."""
