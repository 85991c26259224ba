"""The Responses API: what is special about it, the state it keeps, and how a model that only has chat answers it."""
