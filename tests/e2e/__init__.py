"""Claims about the running gateway, checked from outside."""
