"""What every daemon needs, whatever it is about: files, locks, watching, waking, looping, telling."""
