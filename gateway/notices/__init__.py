"""What people are told about money and trouble: found, recorded once, delivered until it arrived."""
