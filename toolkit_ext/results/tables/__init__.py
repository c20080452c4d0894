"""Tables from records: frames, means over seeds, significance, and their rendering."""
