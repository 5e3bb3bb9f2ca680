"""The load test of OpenAI-compatible servers, `nearfar cloud bench`."""
