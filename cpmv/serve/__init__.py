"""The HTTP server: OpenAI's protocol over the engine, with media fetched and decoded safely beside it."""
