"""The gateway with litellm behind it: a process in the environment `litellm` of the client tests, against a scripted upstream."""
