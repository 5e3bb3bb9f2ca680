"""`nearfar cloud bench`: how an OpenAI-compatible server answers under load."""
