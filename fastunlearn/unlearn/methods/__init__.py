"""Methods, one file each: settings, the function that runs it, and its rows ``METHODS`` for the table (registry.py)."""
