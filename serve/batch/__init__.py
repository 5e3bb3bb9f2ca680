"""Batch jobs over HTTP: OpenAI's /v1/files and /v1/batches, in the time that readers leave."""
