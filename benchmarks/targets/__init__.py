"""What is measured: the gateway, its peers, and the upstream without anything in between."""
