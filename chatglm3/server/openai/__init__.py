"""OpenAI's dialect: one file for each group of routes, over the core."""
