"""What the commands do, apart from their options, so that ``--help`` does not wait for torch."""
