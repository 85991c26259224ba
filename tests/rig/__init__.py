"""A real gateway process between a scripted upstream and raw clients: what the black-box tests are made of.

Nothing here imports `gateway`: what it knows, it knows from the specification.
"""
