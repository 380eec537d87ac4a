"""What built-in kinds do beyond being stored: defaults, rules of their own, fields to select by."""
