"""`mossvl serve`: an OpenAI-compatible server on the engine."""
