"""Run records: their schema, reading and writing, and the environment they were made in."""
