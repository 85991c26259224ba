"""An OpenAI-compatible gateway: authenticates, limits, forwards, meters and books every call."""
