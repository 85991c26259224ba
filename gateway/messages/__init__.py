"""Anthropic's Messages API in front of every chat model: natively where the provider has it, else by way of chat."""
