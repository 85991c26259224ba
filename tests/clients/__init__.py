"""Client libraries made by others against the running gateway, each family in an environment of its own."""
