"""Anthropic's dialect: /v1/messages, over the core."""
